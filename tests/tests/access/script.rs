//! The scripts that count in Redis against the ledger that counts in memory, over random schedules.

use std::time::{Duration, Instant};

use littoral_core::{
    ledger::{Correction, Demand, Ledger},
    limits::charge_kind::{BUDGET, CONCURRENCY, REQUESTS, TOKENS},
};
use littoral_tests::redis_server::Redis;
use rand::{Rng, SeedableRng, rngs::StdRng};
use redis::{AsyncConnectionConfig, Script};

const ADMIT: &str = include_str!("../../../host/src/vault/admit.lua");
const SETTLE: &str = include_str!("../../../host/src/vault/settle.lua");

#[tokio::test]
async fn redis_counts_as_the_ledger_does() {
    let server = Redis::start();
    let client = redis::Client::open(server.url()).unwrap();
    // The library's own half second is less than a machine may stall.
    let patient = AsyncConnectionConfig::new().set_response_timeout(Some(super::SOON));
    let mut link = client.get_multiplexed_async_connection_with_config(&patient).await.unwrap();
    let (admit, settle) = (Script::new(ADMIT), Script::new(SETTLE));
    let mut granted_total = 0;
    for seed in 0..40 {
        let began = Instant::now();
        let mut random = StdRng::seed_from_u64(seed);
        let mut ledger = Ledger::default();
        let mut now: u64 = 1_700_000_000_000;
        let limits: Vec<(&str, String, u64, u64)> =
            [(REQUESTS, 60_000), (TOKENS, 60_000), (BUDGET, 0), (CONCURRENCY, 0)]
                .map(|(kind, window)| (kind, format!("{seed}/{kind}"), random.random_range(1..2000), window))
                .to_vec();
        let mut open: Vec<(Vec<Demand>, Vec<u64>, String, u64)> = Vec::new();
        for step in 0..60 {
            now += random.random_range(0..4000);
            let mut demands = Vec::new();
            for (kind, key, limit, window_ms) in &limits {
                if random.random_bool(0.3) {
                    continue;
                }
                let amount = if *kind == CONCURRENCY || *kind == REQUESTS { 1 } else { random.random_range(1..2500) };
                let least = random.random_range(1..=amount);
                let (kind, key, limit, window_ms) = (kind.to_string(), key.clone(), *limit, *window_ms);
                demands.push(Demand { kind, key, amount, least, limit, window_ms });
            }
            let lease = format!("{seed}-{step}");
            let mut call = admit.prepare_invoke();
            call.arg(now).arg(&lease).arg(20_000);
            for demand in &demands {
                call.key(&demand.key).arg(&demand.kind).arg(demand.amount).arg(demand.least);
                call.arg(demand.limit).arg(demand.window_ms);
            }
            let said: Vec<i64> = call.invoke_async(&mut link).await.unwrap();
            // Redis forgets by its own clock, a second after a write at the earliest, whatever time it is told.
            if began.elapsed() > Duration::from_millis(900) {
                break;
            }
            match ledger.admit(&demands, &lease, now + 20_000, now) {
                Ok(grants) => {
                    let flat = grants.iter().flat_map(|g| [g.amount as i64, g.remaining as i64, g.reset_ms as i64]);
                    assert_eq!(
                        said,
                        [1].into_iter().chain(flat).collect::<Vec<_>>(),
                        "seed {seed} step {step} {demands:?}"
                    );
                    granted_total += 1;
                    open.push((demands, grants.iter().map(|g| g.amount).collect(), lease, now));
                }
                Err(r) => {
                    let retry = r.retry_ms.map_or(-1, |ms| ms as i64);
                    let expected = [0, r.at as i64, r.remaining as i64, retry, r.reset_ms as i64];
                    assert_eq!(said, expected, "seed {seed} step {step} {demands:?}");
                }
            }
            while open.len() > 3 {
                let (demands, grants, lease, at) = open.remove(random.random_range(0..open.len()));
                let mut call = settle.prepare_invoke();
                call.arg(now).arg(&lease);
                for (demand, granted) in demands.iter().zip(grants) {
                    let actual = random.random_range(0..=granted);
                    let elapsed_ms = now - at;
                    let Demand { kind, key, limit, window_ms, .. } = demand.clone();
                    if kind == REQUESTS {
                        continue;
                    }
                    call.key(&key).arg(&kind).arg(granted).arg(actual).arg(limit).arg(window_ms).arg(elapsed_ms);
                    if kind == CONCURRENCY {
                        ledger.release(&key, &lease);
                    } else {
                        ledger.settle(&Correction { kind, key, granted, actual, limit, window_ms, elapsed_ms }, now);
                    }
                }
                let _: i64 = call.invoke_async(&mut link).await.unwrap();
            }
        }
    }
    assert!(granted_total > 200, "{granted_total} of 2400 were granted: the schedules test little");
}
