//! The order of the nodes: who comes home, who is sent elsewhere, and how many move when a node comes or goes.

use std::time::Instant;

use littoral_core::{
    fleet::{Balance, Choice, Load, Policy, Reason, choose},
    rendezvous,
};

fn fleet(count: usize) -> Vec<Load> {
    (0..count)
        .map(|i| Load { hash: rendezvous::hash(&format!("10.0.0.{i}:7433")), slots: 8, ..Load::default() })
        .collect()
}

fn by(policy: Policy) -> Balance {
    Balance { policy, ..Balance::default() }
}

fn home(nodes: &[Load], session: usize) -> Choice {
    choose(Balance::default(), &format!("session {session}"), nodes, 0, 3)[0]
}

/// A generator as good as a test needs: every call another number, the same in every run.
fn draws() -> impl FnMut() -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        rendezvous::mix(state)
    }
}

#[test]
fn a_node_that_joins_or_leaves_moves_at_most_a_fifth_more_than_its_share() {
    const SESSIONS: usize = 20_000;
    for count in [2, 4, 10, 50] {
        let all = fleet(count);
        let before: Vec<_> = (0..SESSIONS).map(|s| home(&all, s).node).collect();
        for gone in [0, count / 2, count - 1] {
            let rest: Vec<_> = (0..count).filter(|&i| i != gone).map(|i| all[i]).collect();
            let moved = (0..SESSIONS).filter(|&s| rest[home(&rest, s).node].hash != all[before[s]].hash).count();
            let share = moved as f64 / SESSIONS as f64;
            println!(
                "{count} nodes, one comes or goes: {:.1} % of the sessions move, its share is {:.1} %",
                100.0 * share,
                100.0 / count as f64
            );
            // Leaving is joining backwards: the same sessions move.
            assert!(share <= 1.2 / count as f64, "{count} nodes: {share} moved");
            let idle = (0..SESSIONS)
                .filter(|&s| before[s] != gone)
                .all(|s| rest[home(&rest, s).node].hash == all[before[s]].hash);
            assert!(idle, "a session whose node stayed has moved");
        }
    }
}

#[test]
fn a_session_comes_home_until_home_is_over_its_bound() {
    let mut nodes = fleet(4);
    let Choice { node: at, reason } = home(&nodes, 1);
    assert_eq!(reason, Reason::Session);
    nodes[at].busy = 7;
    assert_eq!(home(&nodes, 1).node, at, "a node with a free slot takes its sessions");
    nodes[at].busy = 8;
    let sent = home(&nodes, 1);
    assert_eq!(sent.reason, Reason::Overflow { home: at });
    assert_ne!(sent.node, at);
    // Everybody is as busy: home is as good as any.
    nodes.iter_mut().for_each(|n| n.busy = 8);
    assert_eq!(home(&nodes, 1), Choice { node: at, reason: Reason::Session });
    // Twice as busy as the others is over the bound, a little busier is not.
    nodes[at].busy = 9;
    assert_eq!(home(&nodes, 1).node, at);
    nodes[at].busy = 16;
    assert_ne!(home(&nodes, 1).node, at);
    let order = choose(Balance::default(), "session 1", &nodes, 0, 4);
    assert_eq!(order.len(), 4);
    assert!(
        order[1..].iter().any(|c| c.node == at && c.reason == Reason::Fallback),
        "home can still take over: {order:?}"
    );
}

#[test]
fn no_node_gets_more_than_its_bound_while_sessions_are_placed() {
    // One session in three is the same one: without a bound its home would have a third of everything.
    let mut nodes = fleet(8);
    nodes.iter_mut().for_each(|n| n.slots = 1);
    for i in 0..400 {
        let session = if i % 3 == 0 { "hot".to_string() } else { format!("session {i}") };
        let at = choose(Balance::default(), &session, &nodes, i, 1)[0].node;
        nodes[at].busy += 1;
    }
    let most = nodes.iter().map(|n| n.busy).max().unwrap();
    assert!(most <= 65, "the mean is 50, the bound 63: {most}");
}

#[test]
fn overflow_goes_where_there_is_room_speed_and_a_short_way() {
    let mut nodes = fleet(4);
    let at = home(&nodes, 1).node;
    let others: Vec<_> = (0..4).filter(|&i| i != at).collect();
    let sent = |nodes: &[Load]| home(nodes, 1).node;
    nodes[at].busy = 100;
    let base = nodes.clone();

    nodes[others[0]].busy = 3;
    nodes[others[2]].busy = 3;
    assert_eq!(sent(&nodes), others[1], "the least busy");

    nodes = base.clone();
    nodes[others[0]].headroom = 0.01;
    nodes[others[1]].headroom = 0.05;
    assert_eq!(sent(&nodes), others[2], "KV to spare");

    nodes = base.clone();
    for (&i, speed) in others.iter().zip([20.0, 60.0, 20.0]) {
        (nodes[i].speed, nodes[i].busy) = (speed, 4);
    }
    assert_eq!(sent(&nodes), others[1], "the fastest");

    nodes = base.clone();
    for (&i, network_ms) in others.iter().zip([80.0, 90.0, 1.0]) {
        nodes[i].network_ms = network_ms;
    }
    assert_eq!(sent(&nodes), others[2], "the nearest");
    nodes[others[2]].busy = 14;
    assert_eq!(sent(&nodes), others[0], "a queue that costs more than the way does not");

    nodes = base;
    others[1..].iter().for_each(|&i| nodes[i].share = 0.1);
    assert_eq!(sent(&nodes), others[0], "who has just come back gets less");
}

#[test]
fn two_choices_spread_and_avoid_the_busy() {
    let mut draw = draws();
    let mut nodes = fleet(10);
    let balance = Balance::default();
    for _ in 0..1000 {
        let choice = choose(balance, "", &nodes, draw(), 2);
        assert_eq!((choice[0].reason, choice.len()), (Reason::TwoChoices, 2));
        assert_ne!(choice[0].node, choice[1].node);
        nodes[choice[0].node].busy += 1;
    }
    let (least, most) = (nodes.iter().map(|n| n.busy).min().unwrap(), nodes.iter().map(|n| n.busy).max().unwrap());
    assert!(most - least <= 6, "{least}..{most}");
    assert_eq!(choose(balance, "", &nodes[..1], draw(), 3), [Choice { node: 0, reason: Reason::TwoChoices }]);
}

#[test]
fn the_plain_policies_do_what_their_names_say() {
    let mut nodes = fleet(4);
    let turns: Vec<_> = (0..8).map(|i| choose(by(Policy::RoundRobin), "s", &nodes, i, 1)[0].node).collect();
    assert_eq!(turns, [0, 1, 2, 3, 0, 1, 2, 3]);
    let mut draw = draws();
    let mut hits = [0; 4];
    (0..4000).for_each(|_| hits[choose(by(Policy::Random), "s", &nodes, draw(), 1)[0].node] += 1);
    assert!(hits.iter().all(|n| (850..1150).contains(n)), "{hits:?}");
    nodes.iter_mut().for_each(|n| n.busy = 2);
    nodes[2].busy = 1;
    assert_eq!(choose(by(Policy::LeastConnections), "s", &nodes, 0, 1)[0].node, 2);
}

#[test]
fn strange_loads_choose_somebody() {
    let strange = Load {
        hash: 1,
        busy: u32::MAX,
        slots: u32::MAX,
        headroom: f32::NAN,
        speed: f32::INFINITY,
        network_ms: f32::NAN,
        share: -1.0,
        rest_s: u32::MAX,
    };
    for policy in [Policy::Session, Policy::LeastConnections, Policy::PowerOfTwo, Policy::RoundRobin, Policy::Random] {
        for session in ["", "s"] {
            assert_eq!(choose(by(policy), session, &[strange; 3], u64::MAX, 5).len(), 3, "{policy:?}");
        }
        assert!(choose(by(policy), "s", &[], 0, 3).is_empty() && choose(by(policy), "s", &fleet(2), 0, 0).is_empty());
    }
}

#[test]
fn a_decision_over_a_thousand_nodes_takes_microseconds() {
    for count in [10, 100, 1000] {
        let mut nodes = fleet(count);
        nodes.iter_mut().for_each(|n| n.busy = 20);
        const BATCH: u32 = 100;
        let batches = (0..20).map(|batch| {
            let began = Instant::now();
            for i in batch * BATCH..(batch + 1) * BATCH {
                // Over the bound every time, which is the longest way.
                let session = format!("session {i}");
                let at = home(&nodes, i as usize).node;
                nodes[at].busy = 1000;
                assert_eq!(choose(Balance::default(), &session, &nodes, 0, 3).len(), 3.min(count));
                nodes[at].busy = 20;
            }
            began.elapsed() / (2 * BATCH)
        });
        // A stall of the machine is in some of them.
        let each = batches.min().unwrap();
        println!("{count} nodes: {:.2} us a decision", each.as_secs_f64() * 1e6);
        assert!(each.as_micros() <= 100, "{count} nodes: {each:?}");
    }
}
