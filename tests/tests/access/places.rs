//! Places told by a database in MaxMind's format: countries that are new, journeys that nobody makes, and a database that
//! is damaged. `tests/places/make.py` makes the database.

use std::{
    fs,
    path::{Path, PathBuf},
};

use littoral_core::step_up::totp;
use littoral_tests::{
    client::Client,
    edge::{Edge, Setup},
    eventually,
    instant_node::{InstantNode, Script},
    process::Process,
};
use serde_json::json;

use super::{SOON, ask};

const BERLIN: &str = "198.51.100.7";
const LEIPZIG: &str = "198.51.100.200";
const SZCZECIN: &str = "192.0.2.7";
const SZCZECIN_V6: &str = "2001:db8:7::1";
const SYDNEY: &str = "203.0.113.7";
const AUSTRALIA: &str = "203.0.113.200";
/// An address that the database does not know.
const NOWHERE: &str = "100.64.0.1";

fn database() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("places/places.mmdb")
}

fn setup(node: &InstantNode, database: &Path) -> Setup {
    let setup = Edge::to(&[node.address()]);
    let (secret, audit) = (setup.dir().join("secret"), setup.dir().join("audit"));
    setup
        .with("edge", "trusted_proxies = ['127.0.0.0/8']")
        .with("auth", &format!("places = '{}'", database.display()))
        .with("audit", &format!("dir = '{}'\nstrict = true", audit.display()))
        .with("token", &format!("issuer = 'https://edge.example'\nsecret_file = '{}'", secret.display()))
        .with("tenant.acme.step_up", "when = 'unusual-places'")
}

struct Scene {
    edge: Edge,
    key: String,
    _node: InstantNode,
}

impl Scene {
    /// A user who was seen in Berlin.
    async fn start() -> Self {
        let node = InstantNode::start("n", Script::default());
        let edge = setup(&node, &database()).start();
        let key = edge.key(&["create", "--tenant", "acme", "--user", "ada"]);
        let scene = Self { edge, key, _node: node };
        eventually("the key", SOON, async || scene.status(BERLIN).await == 200).await;
        // Where the store was too slow for it, the place is taken down now: else the next would be the user's own.
        for _ in 0..2 {
            assert_eq!(scene.status(BERLIN).await, 200);
        }
        eventually("the place", SOON, async || scene.status(SZCZECIN).await == 401).await;
        scene
    }

    fn from(&self, address: &str) -> Client {
        Client::new(self.edge.http).with_key(&self.key).with_header("x-forwarded-for", address)
    }

    async fn status(&self, address: &str) -> u16 {
        self.from(address).get("/v1/models").await.status
    }

    /// Why a request from there is asked for a second factor.
    async fn asked(&self, address: &str) -> String {
        let id = format!("from-{}-{}", address.replace([':', '.'], "-"), rand::random::<u32>());
        let answer = self.from(address).with_header("x-request-id", &id).chat(&ask(json!({}))).await;
        let challenge = answer.header("www-authenticate").to_string();
        assert!(challenge.contains("error=\"insufficient_user_authentication\""), "{challenge}");
        assert_eq!(answer.error(401).await["code"], "insufficient_user_authentication");
        let dir = self.edge.config().with_file_name("audit");
        let found = self.audit(&["search", &dir.display().to_string(), "--request-id", &id]);
        let line: serde_json::Value = serde_json::from_str(found.trim()).unwrap_or_else(|e| panic!("{e}: {found}"));
        let policy = line["auth"]["policy"].as_array().cloned().unwrap_or_default();
        let reason = policy.iter().find(|pair| pair[0] == "step_up").expect("the line says why");
        reason[1].as_str().unwrap().into()
    }

    fn audit(&self, arguments: &[&str]) -> String {
        let mut command = std::process::Command::new(littoral_tests::artefact::binary("littoral"));
        command.arg("audit").args(arguments);
        let ended = littoral_tests::process::run("audit", command, SOON);
        assert!(ended.status.success(), "{}", ended.said);
        ended.said
    }

    /// Proves the second factor from there.
    async fn prove(&self, address: &str) {
        let secret = self.edge.config().with_file_name("secret").display().to_string();
        let said = self.edge.run(&["user", "enrol", "--tenant", "acme", "--user", "ada", "--secret", &secret]).said;
        let uri = said.lines().find(|line| line.starts_with("otpauth://")).expect("a URI is shown");
        let secret = totp::unbase32(uri.split("secret=").nth(1).unwrap().split('&').next().unwrap()).unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let code = json!({"code": totp::at(&secret, now / 30)}).to_string();
        self.from(address).post("/v1/auth/step-up", code).await.ok().await;
    }
}

#[tokio::test]
async fn a_country_seen_first_asks_for_a_second_factor() {
    let scene = Scene::start().await;
    // Another city, and another network, of the same country.
    scene.from(LEIPZIG).chat(&ask(json!({}))).await.ok().await;
    for address in [SZCZECIN, SZCZECIN_V6] {
        assert_eq!(scene.asked(address).await, "new country");
    }
    // No position, no journey; no record, and the network is all that is known.
    assert_eq!(scene.asked(AUSTRALIA).await, "new country");
    assert_eq!(scene.asked(NOWHERE).await, "new network");
    scene.prove(SZCZECIN).await;
    // The country is known from now on, by whichever network.
    for address in [SZCZECIN, SZCZECIN_V6, BERLIN] {
        eventually("the place", SOON, async || scene.status(address).await == 200).await;
        scene.from(address).chat(&ask(json!({}))).await.ok().await;
    }
}

#[tokio::test]
async fn nobody_is_asked_less_for_having_been_there_before() {
    let scene = Scene::start().await;
    assert_eq!(scene.asked(SYDNEY).await, "impossible travel");
    scene.prove(SYDNEY).await;
    eventually("the place", SOON, async || scene.status(SYDNEY).await == 200).await;
    // Both countries are known now, and the way back is as far.
    assert_eq!(scene.asked(BERLIN).await, "impossible travel");
    scene.from(SYDNEY).chat(&ask(json!({}))).await.ok().await;
}

#[tokio::test]
async fn a_database_that_is_not_whole_is_refused_at_the_start() {
    let node = InstantNode::start("n", Script::default());
    let whole = fs::read(database()).unwrap();
    let (mut flipped, mut pointed) = (whole.clone(), whole.clone());
    // In the tree, and in the data behind it.
    flipped[..64].iter_mut().for_each(|byte| *byte = !*byte);
    let at = whole.windows(8).position(|bytes| bytes == b"iso_code").unwrap();
    pointed[at - 1] = 0xff;
    let cases: [(&str, Option<&[u8]>); 6] = [
        ("missing", None),
        ("empty", Some(b"")),
        ("text", Some(b"198.51.100.0/24 DE\n")),
        ("cut", Some(&whole[..whole.len() / 2])),
        ("flipped", Some(&flipped)),
        ("pointed", Some(&pointed)),
    ];
    for (name, bytes) in cases {
        let file = littoral_tests::artefact::scratch("places").join(format!("{name}.mmdb"));
        if let Some(bytes) = bytes {
            fs::write(&file, bytes).unwrap();
        }
        let (command, _) = setup(&node, &file).command();
        Process::refused("edge", command).names(&["auth.places", &format!("{name}.mmdb")]);
    }
}
