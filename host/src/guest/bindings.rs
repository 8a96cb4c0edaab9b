//! Generated from `wit/`: the policy world, called synchronously, and the filter world, called concurrently.

/// A policy component. Records that go in borrow from the request; nothing is copied before the boundary.
pub mod policy {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "littoral:edge/terminal",
        ownership: Borrowing { duplicate_if_necessary: true },
        imports: { default: trappable },
        with: { "littoral:edge/inference.generation": crate::guest::state::Generation },
    });
}

/// A component that looks at tokens.
pub mod filter {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "littoral:edge/filter",
    });
}
