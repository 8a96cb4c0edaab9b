//! A policy that does what the header `x-hostile` tells it: `trap`, `spin`, `hoard`, `undecided`. Anything else it
//! refuses with 418.

use littoral_core::{Call, Denial, Knowledge, Outcome, Want};

littoral_abi::terminal!(decide);

fn decide(call: Call, _known: &dyn Knowledge) -> Outcome {
    match call.head.header("x-hostile").unwrap_or_default() {
        "trap" => panic!("as told"),
        "spin" => spin(),
        "hoard" => hoard(),
        "undecided" => Outcome::Need(vec![Want::Fact("nothing".into(), call.now_ms.to_string())]),
        _ => Denial { status: 418, code: "teapot".into(), message: "as told".into(), ..Denial::default() }.into(),
    }
}

fn spin() -> ! {
    let mut n = 0u64;
    loop {
        n = std::hint::black_box(n.wrapping_add(1));
    }
}

fn hoard() -> ! {
    let mut kept = Vec::new();
    loop {
        kept.push(std::hint::black_box(Vec::<u8>::with_capacity(1 << 20)));
    }
}
