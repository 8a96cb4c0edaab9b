//! What a policy has of WASI: clocks, random numbers, standard streams that lead nowhere. It has no files and no
//! sockets, and it cannot wait: a call that would is a trap.
//!
//! wasmtime-wasi's synchronous streams wait by entering a runtime, which a thread that is inside one must not do; so the
//! streams are served here.

use bytes::Bytes;
use futures::FutureExt;
use wasmtime::{
    Error, Result,
    component::{Component, HasData, Linker, Resource, ResourceTable, types::ComponentItem},
};
use wasmtime_wasi::p2::{
    self, DynInputStream, DynOutputStream, DynPollable, StreamError, StreamResult,
    bindings::sync::io::{poll, streams},
};

use super::state::State;

const CANNOT_WAIT: &str = "a policy cannot wait; what it has to wait for is asked of the host with `need`";
const NOTHING_THERE: &str = "a policy has neither files nor sockets";

/// Links what `component` may use of WASI.
pub fn add_to_linker(linker: &mut Linker<State>, component: &Component) -> Result<()> {
    p2::add_to_linker_sync(linker)?;
    linker.allow_shadowing(true);
    poll::add_to_linker::<State, Io>(linker, |state| Io(&mut state.table))?;
    streams::add_to_linker::<State, Io>(linker, |state| Io(&mut state.table))?;
    let engine = component.engine();
    for (name, import) in component.component_type().imports(engine) {
        let outside = ["wasi:filesystem/types", "wasi:sockets/"].iter().any(|prefix| name.starts_with(prefix));
        if let ComponentItem::ComponentInstance(interface) = import.ty
            && outside
        {
            let mut instance = linker.instance(name)?;
            for (name, item) in interface.exports(engine) {
                if let ComponentItem::ComponentFunc(_) = item.ty {
                    instance.func_new(name, |_, _, _, _| Err(Error::msg(NOTHING_THERE)))?;
                }
            }
        }
    }
    linker.allow_shadowing(false);
    Ok(())
}

/// The streams and pollables of one instance.
struct Io<'a>(&'a mut ResourceTable);

impl HasData for Io<'static> {
    type Data<'a> = Io<'a>;
}

/// The result of a future that never waits.
fn at_once<T>(future: impl Future<Output = StreamResult<T>>) -> StreamResult<T> {
    future.now_or_never().unwrap_or_else(|| Err(StreamError::trap(CANNOT_WAIT)))
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

impl poll::Host for Io<'_> {
    fn poll(&mut self, _: Vec<Resource<DynPollable>>) -> Result<Vec<u32>> {
        Err(Error::msg(CANNOT_WAIT))
    }
}

impl poll::HostPollable for Io<'_> {
    fn ready(&mut self, _: Resource<DynPollable>) -> Result<bool> {
        Err(Error::msg(CANNOT_WAIT))
    }

    fn block(&mut self, _: Resource<DynPollable>) -> Result<()> {
        Err(Error::msg(CANNOT_WAIT))
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> Result<()> {
        poll::HostPollable::drop(self.0, pollable)
    }
}

impl streams::Host for Io<'_> {
    fn convert_stream_error(&mut self, error: StreamError) -> Result<streams::StreamError> {
        streams::Host::convert_stream_error(self.0, error)
    }
}

impl streams::HostOutputStream for Io<'_> {
    fn drop(&mut self, stream: Resource<DynOutputStream>) -> Result<()> {
        self.0.delete(stream)?;
        Ok(())
    }

    fn check_write(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<u64> {
        streams::HostOutputStream::check_write(self.0, stream)
    }

    fn write(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        streams::HostOutputStream::write(self.0, stream, bytes)
    }

    fn blocking_write_and_flush(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        at_once(self.0.get_mut(&stream)?.blocking_write_and_flush(bytes.into()))
    }

    fn blocking_write_zeroes_and_flush(&mut self, stream: Resource<DynOutputStream>, n: u64) -> StreamResult<()> {
        // The most that WASI allows in one call (wasi:io 0.2, `blocking-write-zeroes-and-flush`).
        let zeroes = Bytes::from(vec![0; size(n).min(4096)]);
        at_once(self.0.get_mut(&stream)?.blocking_write_and_flush(zeroes))
    }

    fn subscribe(&mut self, stream: Resource<DynOutputStream>) -> Result<Resource<DynPollable>> {
        streams::HostOutputStream::subscribe(self.0, stream)
    }

    fn write_zeroes(&mut self, stream: Resource<DynOutputStream>, n: u64) -> StreamResult<()> {
        streams::HostOutputStream::write_zeroes(self.0, stream, n)
    }

    fn flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        streams::HostOutputStream::flush(self.0, stream)
    }

    fn blocking_flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        let stream = self.0.get_mut(&stream)?;
        stream.flush()?;
        at_once(stream.write_ready()).map(drop)
    }

    fn splice(&mut self, to: Resource<DynOutputStream>, from: Resource<DynInputStream>, n: u64) -> StreamResult<u64> {
        streams::HostOutputStream::splice(self.0, to, from, n)
    }

    fn blocking_splice(
        &mut self,
        _: Resource<DynOutputStream>,
        _: Resource<DynInputStream>,
        _: u64,
    ) -> StreamResult<u64> {
        Err(StreamError::trap(CANNOT_WAIT))
    }
}

impl streams::HostInputStream for Io<'_> {
    fn drop(&mut self, stream: Resource<DynInputStream>) -> Result<()> {
        self.0.delete(stream)?;
        Ok(())
    }

    fn read(&mut self, stream: Resource<DynInputStream>, n: u64) -> StreamResult<Vec<u8>> {
        streams::HostInputStream::read(self.0, stream, n)
    }

    fn blocking_read(&mut self, stream: Resource<DynInputStream>, n: u64) -> StreamResult<Vec<u8>> {
        at_once(self.0.get_mut(&stream)?.blocking_read(size(n))).map(Into::into)
    }

    fn skip(&mut self, stream: Resource<DynInputStream>, n: u64) -> StreamResult<u64> {
        streams::HostInputStream::skip(self.0, stream, n)
    }

    fn blocking_skip(&mut self, stream: Resource<DynInputStream>, n: u64) -> StreamResult<u64> {
        at_once(self.0.get_mut(&stream)?.blocking_skip(size(n))).map(|skipped| skipped as u64)
    }

    fn subscribe(&mut self, stream: Resource<DynInputStream>) -> Result<Resource<DynPollable>> {
        streams::HostInputStream::subscribe(self.0, stream)
    }
}
