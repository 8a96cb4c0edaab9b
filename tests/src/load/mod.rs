//! A load generator: many keep-alive connections on one thread, and no work per answer that is not needed to count it.
//!
//! Closed loop: each connection sends its next request when the answer to the last is whole. Open loop: requests have
//! intended times, and latency counts from those, so that a server that falls behind cannot hide it. Held: streams are
//! opened and kept.

mod pace;
mod tally;
mod wire;

use std::{
    cell::RefCell,
    io,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::{task::LocalSet, time::timeout_at};

use pace::Pace;
pub use tally::Report;
use tally::Tally;
use wire::Connection;

/// What is sent, where to, and for how long.
#[derive(Debug, Clone)]
pub struct Load {
    pub address: SocketAddr,
    /// Without one no `authorization` is sent.
    pub key: Option<String>,
    pub model: String,
    /// Ask for server-sent events.
    pub stream: bool,
    /// Length of the message, bytes.
    pub message: usize,
    pub connections: usize,
    pub time: Duration,
    /// Requests a second, for an open loop.
    pub rate: Option<f64>,
}

/// The state of a run that its connections share.
struct Run {
    request: Vec<u8>,
    began: Instant,
    ends: Instant,
    tally: RefCell<Tally>,
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    messages: [Message; 1],
    stream: bool,
}

#[derive(Serialize)]
struct Message {
    role: &'static str,
    content: String,
}

impl Load {
    /// Runs it to its end. Connections that break are counted and opened anew.
    pub async fn run(&self) -> io::Result<Report> {
        let mut connections = Vec::with_capacity(self.connections);
        for _ in 0..self.connections {
            connections.push(Connection::open(self.address).await?);
        }
        let began = Instant::now();
        let tally = RefCell::new(Tally::new(self.rate.map(|rate| Pace::new(began, rate))));
        let run = Rc::new(Run { request: self.request(), began, ends: began + self.time, tally });
        let tasks = LocalSet::new();
        for connection in connections {
            tasks.spawn_local(drive(connection, self.address, run.clone()));
        }
        tasks.await;
        let took = run.began.elapsed();
        let tally = run.tally.replace(Tally::new(None));
        Ok(tally.report(took))
    }

    /// Opens one stream on each connection, waits until every one has an event, calls `opened`, and reads on until the
    /// time is over. Gives the number of streams that ended or broke.
    pub async fn hold(&self, opened: impl FnOnce()) -> io::Result<usize> {
        let request = self.request();
        let mut streams = Vec::with_capacity(self.connections);
        for _ in 0..self.connections {
            let mut connection = Connection::open(self.address).await?;
            connection.send(&request).await?;
            streams.push(connection);
        }
        for stream in &mut streams {
            stream.first_event().await?;
        }
        opened();
        let ends = (Instant::now() + self.time).into();
        let tasks = LocalSet::new();
        let ended: Vec<_> = streams
            .into_iter()
            .map(|mut stream| tasks.spawn_local(async move { timeout_at(ends, stream.receive(|_| {})).await.is_ok() }))
            .collect();
        tasks.await;
        let mut count = 0;
        for task in ended {
            count += usize::from(task.await.map_err(io::Error::other)?);
        }
        Ok(count)
    }

    /// The same bytes every time. Nothing fixes the answer, so that no cache keeps it.
    fn request(&self) -> Vec<u8> {
        const WORDS: &str = "What does the tide leave behind when it goes? ";
        let content: String = WORDS.chars().cycle().take(self.message).collect();
        let messages = [Message { role: "user", content }];
        let body = Body { model: &self.model, messages, stream: self.stream };
        let body = serde_json::to_vec(&body).expect("strings always serialise");
        let key = self.key.iter().map(|key| format!("authorization: Bearer {key}\r\n")).collect::<String>();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: {}\r\n{key}content-type: application/json\r\naccept: */*\r\nuser-agent: littoral-load\r\ncontent-length: {}\r\n\r\n",
            self.address,
            body.len(),
        );
        [head.into_bytes(), body].concat()
    }
}

/// One connection until the end of the run.
async fn drive(mut connection: Connection, address: SocketAddr, run: Rc<Run>) {
    while let Ok(Some(due)) = run.next().await {
        let counted = |events| run.tally.borrow_mut().events += events;
        let exchange = async {
            connection.send(&run.request).await?;
            connection.receive(counted).await
        };
        // What is under way at the end counts neither as an answer nor as an error.
        let Ok(result) = timeout_at(run.ends.into(), exchange).await else { return };
        match result {
            Ok(()) => run.tally.borrow_mut().answered(due.elapsed()),
            Err(why) => {
                run.tally.borrow_mut().failed(why.to_string());
                tokio::time::sleep(Duration::from_millis(10)).await;
                match Connection::open(address).await {
                    Ok(fresh) => connection = fresh,
                    Err(_) => return,
                }
            }
        }
    }
}

impl Run {
    /// When the next request is, or was, to be sent; returns then at the earliest. None at the end.
    async fn next(&self) -> io::Result<Option<Instant>> {
        let due = match &mut self.tally.borrow_mut().pace {
            None => Instant::now(),
            Some(pace) => pace.next(),
        };
        if due >= self.ends {
            return Ok(None);
        }
        pace::until(due).await?;
        Ok(Some(due))
    }
}
