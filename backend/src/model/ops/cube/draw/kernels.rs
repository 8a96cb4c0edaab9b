//! A cube goes through a row of logits: first for the greatest, then for what top-k and top-p leave, and last for the
//! race of the candidates, as `sample` describes it. Infinities are left out: shaders may do without them.

use cubecl::prelude::*;

use super::super::fold::{Fold, Units, fold};

/// Words of a draw: the rows of logits that it is told by and drawn from, its key, low word first, the bits of the
/// temperature's inverse (0 takes the greatest), of min-p, of top-k and of top-p, how many of the likeliest are wanted and
/// one more (0: no log probabilities), and the number of its mask, the first being 1.
pub const LINE: usize = 10;

/// Words of a change: draw, token, and the bits of what the logit is divided by, of what is taken off it, and added to it.
pub const CHANGE: usize = 5;

/// A logit that is no greater belongs to a token that may not be drawn.
const LEAST: f32 = -1e38;

/// Of a top-k or top-p that leaves all.
pub const ALL: f32 = 1e38;

/// Bits of a number that a pass through the row finds, and the borders it tells apart by them.
const DIGIT: u32 = 4;
pub const BORDERS: usize = 15;

/// Copies the rows that are drawn from, without the tokens that masks forbid. `length` is a mask's, in words.
#[cube(launch_unchecked)]
pub fn mask(logits: &[f32], lines: &[u32], masks: &[u32], moved: &mut [f32], vocab: usize, length: usize) {
    if ABSOLUTE_POS < moved.len() {
        let (at, id) = (ABSOLUTE_POS / vocab, ABSOLUTE_POS % vocab);
        let mut logit = logits[lines[at * LINE] as usize * vocab + id];
        let mask = lines[at * LINE + 9] as usize;
        if mask > 0 {
            let word = masks[(mask - 1) * length + id / 32];
            // A logit that is not a number stays one, so that it is noticed.
            if (word >> (id % 32) as u32) & 1 == 0 && is_number(logit) {
                logit = f32::new(2.0 * LEAST);
            }
        }
        moved[ABSOLUTE_POS] = logit;
    }
}

/// Makes changes, a unit each.
#[cube(launch_unchecked)]
pub fn change(moved: &mut [f32], changes: &[u32], count: usize, vocab: usize) {
    if ABSOLUTE_POS < count {
        let change = ABSOLUTE_POS * CHANGE;
        let at = changes[change] as usize * vocab + changes[change + 1] as usize;
        let logit = moved[at];
        if logit > LEAST || !is_number(logit) {
            let penalty = f32::reinterpret(changes[change + 2]);
            let penalised = select(logit > 0.0, logit / penalty, logit * penalty);
            moved[at] = penalised - f32::reinterpret(changes[change + 3]) + f32::reinterpret(changes[change + 4]);
        }
    }
}

/// A row of logits and how it is drawn from.
#[derive(CubeType)]
struct Row {
    start: usize,
    vocab: usize,
    highest: f32,
    /// The temperature's inverse.
    scale: f32,
    /// A candidate's weight, at least; the greatest logit's is 1.
    least: f32,
}

/// What may be drawn: tokens whose logit's order is greater, and of those with this order the ids up to this one.
#[derive(CubeType)]
struct Bounds {
    order: u32,
    id: u32,
}

/// A draw from each line's row. `out` has `width` words a line, of which the first is written.
#[cube(launch_unchecked)]
pub fn draw(
    logits: &[f32],
    lines: &[u32],
    out: &mut [u32],
    draws: usize,
    vocab: usize,
    width: usize,
    #[comptime] units: Units,
) {
    // Cubes beyond the last draw do it over, and write nothing.
    let at = min(CUBE_POS, draws - 1);
    let line = at * LINE;
    let start = lines[line + 1] as usize * vocab;
    let mut shared = Shared::<[f32]>::new_slice(comptime!(units.places(BORDERS)));

    // The greatest, and the first that is no number.
    let mut values = Array::<f32>::new(2usize);
    values[0] = f32::new(2.0 * LEAST);
    values[1] = f32::new(0.0);
    let mut id = UNIT_POS as usize;
    while id < vocab {
        let logit = logits[start + id];
        if is_number(logit) {
            values[0] = max(values[0], logit);
        } else {
            values[1] = max(values[1], f32::cast_from(vocab - id));
        }
        id += units.count;
    }
    fold(&values, &mut shared, Fold::Max, units);
    let (highest, wrong) = (shared[0], vocab - shared[1] as usize);

    let scale = f32::reinterpret(lines[line + 4]);
    let row = Row { start, vocab, highest, scale, least: f32::reinterpret(lines[line + 5]) };
    let bounds = Bounds { order: 0u32, id: 0xffff_ffffu32 };
    let count = f32::reinterpret(lines[line + 6]);
    let bounds = cut(logits, &row, &bounds, count, &mut shared, false, units);
    let share = f32::reinterpret(lines[line + 7]);
    let mut weight = f32::new(ALL);
    let passes = select(share < ALL, 1u32, 0u32);
    for _ in 0..passes {
        // Not less than the likeliest, which weighs 1.
        weight = max(share * all(logits, &row, &bounds, &mut shared, units), 0.5);
    }
    let bounds = cut(logits, &row, &bounds, weight, &mut shared, true, units);

    let (low, high) = (lines[line + 2], lines[line + 3]);
    let mut first = f32::new(ALL);
    let mut winner = vocab;
    let mut id = UNIT_POS as usize;
    while id < vocab {
        let logit = logits[start + id];
        let weight = weight_of(logit, &row);
        if logit > LEAST && weight >= row.least && is_inside(&bounds, logit, id as u32) {
            let mut arrival = -logit;
            if scale > 0.0 {
                arrival = select(weight > 0.0, exponential(low, high, id as u32) / weight, ALL);
            }
            if arrival < first {
                first = arrival;
                winner = id;
            }
        }
        id += units.count;
    }
    let found = first_greatest(-first, winner, &mut shared, units);
    if UNIT_POS == 0 && CUBE_POS < draws {
        let mut word = found.id as u32;
        if highest <= LEAST || found.value <= -ALL {
            word = 0xffff_ffffu32;
        }
        if wrong < vocab {
            word = wrong as u32 | 0x8000_0000u32;
        }
        out[at * width] = word;
    }
}

/// Log probabilities of the token drawn and of the likeliest, for the lines that want them.
#[cube(launch_unchecked)]
pub fn likeliest(
    logits: &[f32],
    lines: &[u32],
    out: &mut [u32],
    draws: usize,
    vocab: usize,
    width: usize,
    #[comptime] units: Units,
) {
    let at = min(CUBE_POS, draws - 1);
    let start = lines[at * LINE] as usize * vocab;
    let wanted = lines[at * LINE + 8] as usize;
    let writes = UNIT_POS == 0 && CUBE_POS < draws;
    let mut shared = Shared::<[f32]>::new_slice(comptime!(units.places(1)));
    let mut value = Array::<f32>::new(1usize);

    value[0] = f32::new(2.0 * LEAST);
    let mut id = UNIT_POS as usize;
    while id < vocab {
        value[0] = max(value[0], logits[start + id]);
        id += units.count;
    }
    fold(&value, &mut shared, Fold::Max, units);
    let highest = shared[0];
    value[0] = f32::new(0.0);
    let mut id = UNIT_POS as usize;
    while id < vocab {
        value[0] += (logits[start + id] - highest).exp();
        id += units.count;
    }
    sync_cube();
    fold(&value, &mut shared, Fold::Sum, units);
    let whole = shared[0].ln();
    let drawn = out[at * width] as usize;
    if writes && wanted > 0 && drawn < vocab {
        out[at * width + 1] = u32::reinterpret(logits[start + drawn] - highest - whole);
    }

    // One after the other: the greatest of those that follow the last one found.
    let mut last = f32::new(ALL);
    let mut last_id = 0usize;
    let count = select(wanted > 1, wanted - 1, 0usize);
    let count = min(count, vocab);
    for place in 0..count {
        let mut best = f32::new(2.0 * LEAST);
        let mut best_id = vocab;
        let mut id = UNIT_POS as usize;
        while id < vocab {
            let logit = logits[start + id];
            if logit > best && (logit < last || (logit == last && id > last_id)) {
                best = logit;
                best_id = id;
            }
            id += units.count;
        }
        let found = first_greatest(best, best_id, &mut shared, units);
        last = found.value;
        last_id = found.id;
        if writes {
            out[at * width + 2 + 2 * place] = last_id as u32;
            out[at * width + 3 + 2 * place] = u32::reinterpret(last - highest - whole);
        }
    }
}

/// The greatest of a cube's values, and where it is.
#[derive(CubeType)]
struct Found {
    value: f32,
    id: usize,
}

/// The greatest of what units bring, and of those that bring it the smallest id.
#[cube]
fn first_greatest(value: f32, id: usize, shared: &mut Shared<[f32]>, #[comptime] units: Units) -> Found {
    let mut values = Array::<f32>::new(1usize);
    values[0] = value;
    sync_cube();
    fold(&values, shared, Fold::Max, units);
    let greatest = shared[0];
    values[0] = select(value == greatest, -f32::cast_from(id), f32::new(LEAST));
    sync_cube();
    fold(&values, shared, Fold::Max, units);
    Found { value: greatest, id: (-shared[0]) as usize }
}

/// The bounds, within those given, in which the greatest logits amount to `goal`, counted or weighed: no more of them than
/// needed.
#[cube]
fn cut(
    logits: &[f32],
    row: &Row,
    bounds: &Bounds,
    goal: f32,
    shared: &mut Shared<[f32]>,
    #[comptime] weighed: bool,
    #[comptime] units: Units,
) -> Bounds {
    let mut values = Array::<f32>::new(BORDERS);
    let mut order = 0u32;
    let mut id = 0u32;
    // The greatest order that, with all above it, reaches the goal, digit by digit.
    let digits = select(goal < ALL, 8u32, 0u32);
    for digit in 0..digits {
        let shift = 28 - DIGIT * digit;
        #[unroll]
        for border in 0..BORDERS {
            values[border] = f32::new(0.0);
        }
        let mut at = UNIT_POS as usize;
        while at < row.vocab {
            let amount = amount_of(logits[row.start + at], at as u32, row, bounds, weighed);
            let own = order_of(logits[row.start + at]);
            #[unroll]
            for border in 0..BORDERS {
                let from = order + (comptime!(border as u32 + 1) << shift);
                values[border] += select(own >= from, amount, 0.0);
            }
            at += units.count;
        }
        sync_cube();
        fold(&values, shared, Fold::Sum, units);
        let mut found = 0u32;
        #[unroll]
        for border in 0..BORDERS {
            found = select(shared[border] >= goal, comptime!(border as u32 + 1), found);
        }
        order += found << shift;
    }
    // What is above it does not. Of those that have it, the first do.
    let mut above = Array::<f32>::new(1usize);
    above[0] = f32::new(0.0);
    let passes = select(goal < ALL, 1u32, 0u32);
    for _ in 0..passes {
        let mut at = UNIT_POS as usize;
        while at < row.vocab {
            let amount = amount_of(logits[row.start + at], at as u32, row, bounds, weighed);
            above[0] += select(order_of(logits[row.start + at]) > order, amount, 0.0);
            at += units.count;
        }
        sync_cube();
        fold(&above, shared, Fold::Sum, units);
        above[0] = shared[0];
    }
    let digits = select(goal < ALL, 6u32, 0u32);
    for digit in 0..digits {
        let shift = 20 - DIGIT * digit;
        #[unroll]
        for border in 0..BORDERS {
            values[border] = f32::new(0.0);
        }
        let mut at = UNIT_POS as usize;
        while at < row.vocab {
            if order_of(logits[row.start + at]) == order {
                let amount = amount_of(logits[row.start + at], at as u32, row, bounds, weighed);
                #[unroll]
                for border in 0..BORDERS {
                    let before = id + (comptime!(border as u32 + 1) << shift);
                    values[border] += select((at as u32) < before, amount, 0.0);
                }
            }
            at += units.count;
        }
        sync_cube();
        fold(&values, shared, Fold::Sum, units);
        let mut found = 0u32;
        #[unroll]
        for border in 0..BORDERS {
            found = select(above[0] + shared[border] < goal, comptime!(border as u32 + 1), found);
        }
        id += found << shift;
    }
    let id = select(order == bounds.order, min(id, bounds.id), id);
    Bounds { order: select(goal < ALL, order, bounds.order), id: select(goal < ALL, id, bounds.id) }
}

/// What all weigh that may be drawn.
#[cube]
fn all(logits: &[f32], row: &Row, bounds: &Bounds, shared: &mut Shared<[f32]>, #[comptime] units: Units) -> f32 {
    let mut values = Array::<f32>::new(1usize);
    values[0] = f32::new(0.0);
    let mut at = UNIT_POS as usize;
    while at < row.vocab {
        values[0] += amount_of(logits[row.start + at], at as u32, row, bounds, true);
        at += units.count;
    }
    sync_cube();
    fold(&values, shared, Fold::Sum, units);
    shared[0]
}

/// What a token adds to a cut: its weight, or 1; nothing if it may not be drawn.
#[cube]
fn amount_of(logit: f32, id: u32, row: &Row, bounds: &Bounds, #[comptime] weighed: bool) -> f32 {
    let weight = weight_of(logit, row);
    let drawn = logit > LEAST && weight >= row.least && is_inside(bounds, logit, id);
    if comptime!(weighed) { select(drawn, weight, 0.0) } else { select(drawn, f32::new(1.0), 0.0) }
}

#[cube]
fn weight_of(logit: f32, row: &Row) -> f32 {
    ((logit - row.highest) * row.scale).exp()
}

#[cube]
fn is_inside(bounds: &Bounds, logit: f32, id: u32) -> bool {
    let order = order_of(logit);
    order > bounds.order || (order == bounds.order && id <= bounds.id)
}

/// A number that is greater for a greater logit.
#[cube]
fn order_of(logit: f32) -> u32 {
    let bits = u32::reinterpret(logit);
    select(bits >> 31 == 0, bits | 0x8000_0000u32, !bits)
}

/// Neither NaN nor infinity, but for the negative one, which is a probability of 0. Told by the bits: shaders may reckon
/// without such numbers.
#[cube]
fn is_number(logit: f32) -> bool {
    let bits = u32::reinterpret(logit);
    bits & 0x7f80_0000u32 != 0x7f80_0000u32 || bits == 0xff80_0000u32
}

/// `-ln(1 - u)` of a token's number in [0, 1), which is the output of SplitMix64 at `id` steps from a key.
#[cube]
fn exponential(key_low: u32, key_high: u32, id: u32) -> f32 {
    let steps = id + 1u32;
    let mut low = key_low + steps * 0x7f4a_7c15u32;
    let carry = select(low < key_low, 1u32, 0u32);
    let mut high = key_high + steps.mul_hi(0x7f4a_7c15u32) + steps * 0x9e37_79b9u32 + carry;
    // z ^ z >> 30, times the first factor
    low ^= (low >> 30u32) | (high << 2u32);
    high ^= high >> 30u32;
    high = low.mul_hi(0x1ce4_e5b9u32) + low * 0xbf58_476du32 + high * 0x1ce4_e5b9u32;
    low *= 0x1ce4_e5b9u32;
    // z ^ z >> 27, times the second
    low ^= (low >> 27u32) | (high << 5u32);
    high ^= high >> 27u32;
    high = low.mul_hi(0x1331_11ebu32) + low * 0x94d0_49bbu32 + high * 0x1331_11ebu32;
    low *= 0x1331_11ebu32;
    // z ^ z >> 31, of which 53 bits
    low ^= (low >> 31u32) | (high << 1u32);
    high ^= high >> 31u32;
    low = (low >> 11u32) | (high << 21u32);
    high >>= 11u32;
    let late = f32::cast_from(high) * f32::new(4.768_371_6e-7) + f32::cast_from(low) * f32::new(1.110_223e-16);
    let late = min(late, f32::new(0.999_999_94));
    // The logarithm of almost 1 is no more exact than 1 is.
    let series = 1.0 + late * (0.5 + late * (0.333_333_34 + late * (0.25 + late * (0.2 + late * 0.166_666_67))));
    select(late < 0.1, late * series, -(1.0 - late).ln())
}
