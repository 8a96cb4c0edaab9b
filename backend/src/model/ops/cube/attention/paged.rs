//! Attention of single rows, straight from the blocks of the cache ("flash decoding"): a cube takes some query heads
//! of one key head over a part of the positions, and a second kernel joins the parts.

use cubecl::prelude::*;

use super::super::fold::{Fold, Units, fold};

/// Less than every score, and finite: differences of it are numbers.
const LEAST: f32 = -1e30;

/// What the kernel is compiled for. Lengths are in vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    pub kv_heads: usize,
    /// Query heads of a key head.
    pub group: usize,
    /// Query heads of a cube.
    pub heads: usize,
    pub k_dim: usize,
    pub v_dim: usize,
    pub block_tokens: usize,
    pub units: Units,
    /// Whether there is one part only, whose result is final.
    pub whole: bool,
}

impl Plan {
    /// Cubes of a row and part.
    pub fn tiles(self) -> usize {
        self.kv_heads * self.group.div_ceil(self.heads)
    }

    /// Neighbouring units that sum neighbouring vectors of a value.
    fn lanes(self) -> usize {
        self.v_dim.next_power_of_two().min(self.units.count)
    }

    /// Sets of lanes: each sums for some of the cube's heads.
    fn teams(self) -> usize {
        self.units.count / self.lanes()
    }

    /// Vectors of a value that a lane sums.
    fn columns(self) -> usize {
        self.v_dim.div_ceil(self.lanes())
    }

    /// Heads that a team sums for.
    fn own(self) -> usize {
        self.heads.div_ceil(self.teams())
    }
}

/// Numbers of a line.
pub const LINE: usize = 4;

/// Strides and scale.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub struct Inputs {
    /// Vectors of a slot of keys and of values.
    pub k_width: usize,
    pub v_width: usize,
    pub scale: f32,
    pub parts: usize,
}

/// The positions of a part.
#[derive(CubeType, Clone, Copy)]
struct Part {
    /// Where the block table begins.
    table: usize,
    first: usize,
    last: usize,
}

#[cube]
fn part_of(lines: &[u32], entry: usize, part: usize, parts: usize) -> Part {
    let (begin, end) = (lines[entry * LINE + 2] as usize, lines[entry * LINE + 3] as usize);
    let len = (end - begin).div_ceil(parts);
    let first = min(begin + part * len, end);
    Part { table: lines[entry * LINE + 1] as usize, first, last: min(first + len, end) }
}

/// `lines` begins with a line for each row: its number, where in `lines` its block table begins, the first position it
/// sees and the position after the last. With more than one part, `out` receives sums of values that are not divided
/// yet, and `state` each part's greatest score and sum of exponentials.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn attend<N: Size>(
    q: &[Vector<f32, N>],
    k: &[Vector<f32, N>],
    v: &[Vector<f32, N>],
    lines: &[u32],
    out: &mut [Vector<f32, N>],
    state: &mut [f32],
    inputs: Inputs,
    #[comptime] plan: Plan,
) {
    let (units, heads) = comptime!((plan.units.count, plan.heads));
    let (lanes, columns, own) = comptime!((plan.lanes(), plan.columns(), plan.own()));
    let all_heads = comptime!(plan.kv_heads * plan.group);
    let unit = UNIT_POS as usize;
    let tiles = comptime!(plan.group.div_ceil(plan.heads));
    let kv_head = CUBE_POS_X as usize / tiles;
    let in_group = CUBE_POS_X as usize % tiles * heads;
    let (part_index, entry) = (CUBE_POS_Y as usize, CUBE_POS_Z as usize);
    let part = part_of(lines, entry, part_index, inputs.parts);
    let row = lines[entry * LINE] as usize;

    // Heads past the group's last do it over, and write nothing.
    let mut q_at = Array::<usize>::new(heads);
    let mut greatest = Array::<f32>::new(heads);
    #[unroll]
    for h in 0..heads {
        let head = kv_head * plan.group + min(in_group + h, comptime!(plan.group - 1));
        q_at[h] = (row * all_heads + head) * plan.k_dim;
        greatest[h] = f32::new(LEAST);
    }
    let mut own_greatest = Array::<f32>::new(own);
    let mut totals = Array::<f32>::new(own);
    let mut sums = Array::<Vector<f32, N>>::new(comptime!(own * columns));
    #[unroll]
    for o in 0..own {
        own_greatest[o] = f32::new(LEAST);
        totals[o] = 0.0;
        #[unroll]
        for c in 0..columns {
            sums[o * columns + c] = Vector::new(0.0);
        }
    }
    let first_own = unit / lanes * own;
    let mut folded = Shared::<[f32]>::new_slice(comptime!(plan.units.places(plan.heads)));
    let mut weights = Shared::<[f32]>::new_slice(comptime!(plan.heads * plan.units.count));
    let mut slots = Shared::<[u32]>::new_slice(units);

    let mut tile = part.first;
    while tile < part.last {
        // A key a unit.
        let seen = tile + unit < part.last;
        let position = min(tile + unit, part.last - 1);
        let block = lines[part.table + position / plan.block_tokens] as usize;
        let slot = block * plan.block_tokens + position % plan.block_tokens;
        let k_at = slot * inputs.k_width + kv_head * plan.k_dim;
        let mut dots = Array::<Vector<f32, N>>::new(heads);
        #[unroll]
        for h in 0..heads {
            dots[h] = Vector::new(0.0);
        }
        for i in 0..plan.k_dim {
            let key = k[k_at + i];
            #[unroll]
            for h in 0..heads {
                dots[h] += key * q[q_at[h] + i];
            }
        }
        let mut scores = Array::<f32>::new(heads);
        #[unroll]
        for h in 0..heads {
            scores[h] = select(seen, dots[h].vector_sum() * inputs.scale, f32::new(LEAST));
        }
        fold(&scores, &mut folded, Fold::Max, plan.units);
        #[unroll]
        for h in 0..heads {
            greatest[h] = max(greatest[h], folded[h]);
            weights[h * units + unit] = select(seen, (scores[h] - greatest[h]).exp(), 0.0);
        }
        #[unroll]
        for o in 0..own {
            let now = max(own_greatest[o], folded[min(first_own + o, comptime!(heads - 1))]);
            let shrink = (own_greatest[o] - now).exp();
            own_greatest[o] = now;
            totals[o] *= shrink;
            #[unroll]
            for c in 0..columns {
                sums[o * columns + c] *= Vector::new(shrink);
            }
        }
        slots[unit] = slot as u32;
        sync_cube();

        // A vector of the values a lane.
        for key in 0..min(part.last - tile, units) {
            let v_at = slots[key] as usize * inputs.v_width + kv_head * plan.v_dim;
            let mut values = Array::<Vector<f32, N>>::new(columns);
            #[unroll]
            for c in 0..columns {
                values[c] = v[v_at + min(unit % lanes + c * lanes, comptime!(plan.v_dim - 1))];
            }
            #[unroll]
            for o in 0..own {
                let weight = weights[min(first_own + o, comptime!(heads - 1)) * units + key];
                totals[o] += weight;
                #[unroll]
                for c in 0..columns {
                    sums[o * columns + c] += values[c] * Vector::new(weight);
                }
            }
        }
        sync_cube();
        tile += units;
    }

    #[unroll]
    for o in 0..own {
        let head = kv_head * plan.group + in_group + first_own + o;
        if first_own + o < heads && in_group + first_own + o < plan.group {
            let place = if comptime!(plan.whole) {
                row * all_heads + head
            } else {
                (entry * all_heads + head) * inputs.parts + part_index
            };
            #[unroll]
            for c in 0..columns {
                let column = unit % lanes + c * lanes;
                if column < plan.v_dim {
                    let mut sum = sums[o * columns + c];
                    if comptime!(plan.whole) {
                        sum /= Vector::new(totals[o]);
                    }
                    out[place * plan.v_dim + column] = sum;
                }
            }
            if comptime!(!plan.whole) && unit.is_multiple_of(lanes) {
                state[place * 2] = own_greatest[o];
                state[place * 2 + 1] = totals[o];
            }
        }
    }
}

/// Joins the parts, a unit a vector of the result: those of a row's head come one after the other.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn join<N: Size>(
    sums: &[Vector<f32, N>],
    state: &[f32],
    lines: &[u32],
    out: &mut [Vector<f32, N>],
    count: usize,
    heads: usize,
    parts: usize,
    #[comptime] v_dim: usize,
) {
    if ABSOLUTE_POS < count * heads * v_dim {
        let (column, place) = (ABSOLUTE_POS % v_dim, ABSOLUTE_POS / v_dim);
        let head = lines[place / heads * LINE] as usize * heads + place % heads;
        let mut greatest = f32::new(LEAST);
        for part in 0..parts {
            greatest = max(greatest, state[(place * parts + part) * 2]);
        }
        let mut total = 0.0f32;
        let mut sum = Vector::<f32, N>::new(0.0);
        for part in 0..parts {
            let at = place * parts + part;
            let weight = (state[at * 2] - greatest).exp();
            total += weight * state[at * 2 + 1];
            sum += sums[at * v_dim + column] * Vector::new(weight);
        }
        out[head * v_dim + column] = sum / Vector::new(total);
    }
}
