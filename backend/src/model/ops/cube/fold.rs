//! Sums and maxima over the units of a cube.

use cubecl::{features::Plane, prelude::*};

/// The units of a cube and how they come together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Units {
    /// A power of two.
    pub count: usize,
    /// The fewest units of a plane, on devices whose planes can fold.
    plane: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fold {
    Sum,
    Max,
}

impl Units {
    /// As many units as there is work for, within `at_most`. Both limits are powers of two.
    pub fn new(client: &Client, work: usize, at_most: usize) -> Self {
        let properties = client.properties();
        let most = at_most.min(properties.hardware.max_units_per_cube as usize);
        let planes = properties.features.plane.contains(Plane::Ops);
        let plane = (properties.hardware.plane_size_min as usize).max(1);
        Self { count: work.next_power_of_two().clamp(32.min(most), most), plane: planes.then_some(plane) }
    }

    pub fn cube_dim(self) -> CubeDim {
        CubeDim::new_1d(self.count as u32)
    }

    /// Places of shared memory that folding `values` values takes.
    pub fn places(self, values: usize) -> usize {
        values * (1 + self.count.div_ceil(self.plane.unwrap_or(1)))
    }
}

/// Folds every unit's `values`. Afterwards place `i` of `shared` holds the `i`th, for all units to read; it takes
/// [`Units::places`] places, and all units must have read what an earlier fold left there.
#[cube]
pub fn fold(values: &Array<f32>, shared: &mut Shared<[f32]>, #[comptime] fold: Fold, #[comptime] units: Units) {
    let len = values.len();
    // What planes have folded is few, and folded one after the other; units alone are planes of one.
    let planes = comptime!(units.plane.is_some());
    let plane = if comptime!(planes) { PLANE_POS as usize } else { UNIT_POS as usize };
    let count = if comptime!(planes) { (CUBE_DIM / PLANE_DIM) as usize } else { units.count.runtime() };
    #[unroll]
    for i in 0..len {
        if comptime!(planes) {
            let value = match fold {
                Fold::Sum => plane_sum(values[i]),
                Fold::Max => plane_max(values[i]),
            };
            if UNIT_POS_PLANE == 0 {
                shared[(plane + 1) * len + i] = value;
            }
        } else {
            shared[(plane + 1) * len + i] = values[i];
        }
    }
    sync_cube();
    let unit = UNIT_POS as usize;
    if unit < len {
        let mut value = shared[len + unit];
        for plane in 1..count {
            value = both(value, shared[(plane + 1) * len + unit], fold);
        }
        shared[unit] = value;
    }
    sync_cube();
}

#[cube]
fn both(a: f32, b: f32, #[comptime] fold: Fold) -> f32 {
    match fold {
        Fold::Sum => a + b,
        Fold::Max => max(a, b),
    }
}
