//! A request's body, read when it is wanted and never beyond its bounds.

use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::Error;

/// Bodies up to this size come with the first call of a decision, bytes.
const WITH_FIRST_CALL: usize = 64 << 10;
/// How long a refused client may go on sending.
const DISCARD_FOR: Duration = Duration::from_secs(2);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The bounds of a body.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes.
    pub size: usize,
    /// From the first read to the last.
    pub time: Duration,
}

/// A body on its way.
pub struct Upload {
    body: UnsyncBoxBody<Bytes, Failure>,
    bounds: Bounds,
    /// What the client says the size is.
    declared: Option<u64>,
    /// What has been read so far.
    read: Vec<u8>,
    until: Option<Instant>,
    /// Whether reading on helps a refused client: not over HTTP/2, which resets the stream alone, and not one that waits
    /// for `100 Continue` and so has sent nothing.
    discardable: bool,
}

impl Upload {
    pub fn new<B>(body: B, bounds: Bounds, discardable: bool) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Failure>,
    {
        let declared = body.size_hint().exact();
        let body = body.map_err(Into::into).boxed_unsync();
        Self { body, bounds, declared, read: Vec::new(), until: None, discardable }
    }

    /// The whole body if it is small; none if it is larger, and then at most 64 KiB and a frame of it have been read.
    pub async fn if_small(&mut self) -> Result<Option<Vec<u8>>, Error> {
        if self.declared.is_some_and(|size| size > self.bounds.size as u64) {
            return Err(Error::BodyTooLarge { limit: self.bounds.size });
        }
        if self.declared.is_some_and(|size| size > WITH_FIRST_CALL as u64) {
            return Ok(None);
        }
        let done = self.read_to(WITH_FIRST_CALL).await?;
        Ok(done.then(|| std::mem::take(&mut self.read)))
    }

    /// The whole body.
    pub async fn whole(&mut self) -> Result<Vec<u8>, Error> {
        self.read_to(self.bounds.size).await?;
        Ok(std::mem::take(&mut self.read))
    }

    /// Reads until the end (true) or until more than `size` bytes are there.
    async fn read_to(&mut self, size: usize) -> Result<bool, Error> {
        if self.read.is_empty() {
            self.read.reserve_exact(self.declared.unwrap_or(0).min(self.bounds.size as u64) as usize);
        }
        let until = *self.until.get_or_insert_with(|| Instant::now() + self.bounds.time);
        while self.read.len() <= size {
            if self.body.is_end_stream() {
                return Ok(true);
            }
            let frame = timeout_at(until, self.body.frame()).await.map_err(|_| Error::BodyTimeout(self.bounds.time))?;
            match frame {
                None => return Ok(true),
                Some(Err(error)) => return Err(Error::BodyBroken(error.to_string())),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        if self.read.len() + data.len() > self.bounds.size {
                            return Err(Error::BodyTooLarge { limit: self.bounds.size });
                        }
                        self.read.extend_from_slice(&data);
                    }
                }
            }
        }
        Ok(false)
    }

    /// Takes what a refused client still sends, for a short while, and keeps none of it.
    pub async fn discard(&mut self) {
        if !self.discardable || self.body.is_end_stream() {
            return;
        }
        // Bounded in bytes too: four times what would have been accepted.
        let mut left = self.bounds.size.saturating_mul(4);
        let drain = async {
            while let Some(Ok(frame)) = self.body.frame().await {
                let size = frame.data_ref().map_or(0, Bytes::len);
                left = left.saturating_sub(size);
                if left == 0 {
                    break;
                }
            }
        };
        // Out of time is as good as done.
        let _ = timeout(DISCARD_FOR, drain).await;
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::{StreamExt, stream};
    use http_body::Frame;
    use http_body_util::{Full, StreamBody};

    use super::*;

    const BOUNDS: Bounds = Bounds { size: 200 << 10, time: Duration::from_millis(50) };

    fn full(size: usize) -> Upload {
        Upload::new(Full::new(Bytes::from(vec![7; size])), BOUNDS, true)
    }

    /// A body that does not say its size.
    fn chunks(sizes: &[usize]) -> Upload {
        let frames: Vec<_> =
            sizes.iter().map(|&size| Ok::<_, Infallible>(Frame::data(Bytes::from(vec![7; size])))).collect();
        Upload::new(StreamBody::new(stream::iter(frames)), BOUNDS, true)
    }

    #[tokio::test]
    async fn a_small_body_comes_at_once_and_a_large_one_when_asked_for() {
        assert_eq!(full(0).if_small().await.unwrap().unwrap().len(), 0);
        assert_eq!(full(64 << 10).if_small().await.unwrap().unwrap().len(), 64 << 10);
        for mut large in [full(100_000), chunks(&[40_000, 40_000, 20_000])] {
            assert_eq!(large.if_small().await.unwrap(), None);
            assert_eq!(large.whole().await.unwrap().len(), 100_000);
        }
    }

    #[tokio::test]
    async fn a_body_over_the_cap_is_refused_however_it_comes() {
        assert!(matches!(full(300_000).if_small().await, Err(Error::BodyTooLarge { .. })));
        let mut endless = chunks(&[60_000; 10]);
        assert_eq!(endless.if_small().await.unwrap(), None);
        assert!(matches!(endless.whole().await, Err(Error::BodyTooLarge { .. })));
        endless.discard().await;
    }

    #[tokio::test]
    async fn a_slow_body_is_given_up() {
        let slow = stream::once(async { Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"{"))) });
        let mut upload = Upload::new(StreamBody::new(slow.chain(stream::pending()).boxed()), BOUNDS, true);
        assert!(matches!(upload.if_small().await, Err(Error::BodyTimeout(_))));
    }
}
