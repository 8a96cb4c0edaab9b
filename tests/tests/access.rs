//! Who may enter, and how often: addresses, keys, limits, against real guests in the real host.

#[path = "access/address.rs"]
mod address;
#[path = "access/admin.rs"]
mod admin;
#[path = "access/audit.rs"]
mod audit;
#[path = "access/keys.rs"]
mod keys;
#[path = "access/limits.rs"]
mod limits;
#[path = "access/places.rs"]
mod places;
#[path = "access/replicas.rs"]
mod replicas;
#[path = "access/script.rs"]
mod script;
#[path = "access/step_up.rs"]
mod step_up;
#[path = "access/syslog.rs"]
mod syslog;
#[path = "access/tls.rs"]
mod tls;
#[path = "access/together.rs"]
mod together;
#[path = "access/tokens.rs"]
mod tokens;

use std::time::Duration;

use littoral_tests::instant_node::MODEL;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

fn ask(more: Value) -> Value {
    let mut body = json!({"model": MODEL, "messages": [{"role": "user", "content": "hi"}]});
    body.as_object_mut().expect("it is one").extend(more.as_object().expect("more is an object").clone());
    body
}
