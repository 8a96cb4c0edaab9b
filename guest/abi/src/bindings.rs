//! Generated from `wit/`: the world this component lives in.

#[cfg(all(feature = "layer", not(feature = "terminal")))]
wit_bindgen::generate!({ path: "../../wit", world: "littoral:edge/layer", pub_export_macro: true });

#[cfg(feature = "terminal")]
wit_bindgen::generate!({ path: "../../wit", world: "littoral:edge/terminal", pub_export_macro: true });
