//! Stands behind the policy in hosts that speak wasi:http only: answers its questions from settings, and carries a
//! generation to a node's HTTP side-door.
//!
//! A component of this crate is a [`Host`], which says where settings come from, and one line: [`provider!`].

pub mod bindings {
    //! Generated from `wit/` and `guest/spin/wit/`.
    wit_bindgen::generate!({
        path: ["../../../wit", "../wit"],
        world: "littoral:portable/provider",
        generate_all,
        pub_export_macro: true,
    });
}

mod carry;
mod crypto;
mod export;
mod get;
mod issuers;
mod known;
mod limits;
mod settings;

use std::future::Future;

pub use littoral_core::{Fact, fact_kind, token};

/// What differs between the hosts that speak wasi:http.
pub trait Host: 'static {
    /// The setting of this lower-case name (`nodes`, `node_secret`, `keys`, `models`, `issuers`); none when it is not set, an error
    /// when it cannot be read.
    fn setting(name: &str) -> impl Future<Output = Result<Option<String>, String>>;
    /// A fact that the settings do not hold.
    fn fetch(kind: &str, key: &str) -> impl Future<Output = Fact>;
}

/// The provider of a host.
pub struct Provider<H>(std::marker::PhantomData<H>);

/// There is no such thing.
pub fn unknown(kind: &str, key: &str) -> Fact {
    Fact { kind: kind.into(), key: key.into(), value: None, error: None }
}

/// Exports the provider of a [`Host`] as this component.
#[macro_export]
macro_rules! provider {
    ($host:ty) => {
        type Component = $crate::Provider<$host>;
        $crate::bindings::export!(Component with_types_in $crate::bindings);
    };
}
