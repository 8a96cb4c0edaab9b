//! Joins components into one: each part's imports are met by the exports of the parts before it.

use std::path::Path;

use anyhow::{Context, Result, bail};
use wac_graph::types::Package;
use wac_graph::{CompositionGraph, EncodeOptions, NodeId};

use crate::place;

/// A component that is made of others.
pub struct Composition {
    /// The file's name below `target/guests`, without `.wasm`.
    pub name: &'static str,
    /// From the innermost part to the outermost, whose exports are those of the whole.
    pub parts: &'static [&'static str],
}

/// Every composition that `cargo xtask guests` makes.
pub const COMPOSITIONS: &[Composition] = &[
    Composition { name: "layers", parts: &["router", "cache", "auth"] },
    // A foreign policy before the three.
    Composition { name: "curfew-layers", parts: &["router", "cache", "auth", "curfew"] },
    // The edge's own policy for hosts that speak wasi:http only.
    Composition { name: "littoral-wasi", parts: &["provider-wasi", "edge", "adapter"] },
    Composition { name: "littoral-spin", parts: &["provider-spin", "edge", "adapter"] },
];

/// Makes every composition out of the components in `dir`, into `dir`; gives their number.
pub fn all(dir: &Path) -> Result<usize> {
    for composition in COMPOSITIONS {
        let read = |part: &&str| {
            let path = dir.join(format!("{part}.wasm"));
            let bytes = std::fs::read(&path).with_context(|| format!("no component {}", path.display()))?;
            Ok((part.to_string(), bytes))
        };
        let parts = composition.parts.iter().map(read).collect::<Result<Vec<_>>>()?;
        let whole = compose(&parts).with_context(|| format!("cannot compose '{}'", composition.name))?;
        place::write_whole(&dir.join(format!("{}.wasm", composition.name)), &whole, 0o644)?;
    }
    Ok(COMPOSITIONS.len())
}

/// Joins `parts` (name and bytes), innermost first. An import is met by the nearest earlier part that exports it, so
/// that layers with the same interface in and out stack up; what no part exports, the whole imports. The last part's
/// exports are the whole's.
pub fn compose(parts: &[(String, Vec<u8>)]) -> Result<Vec<u8>> {
    let mut graph = CompositionGraph::new();
    let mut earlier: Vec<(NodeId, Vec<String>)> = Vec::new();
    for (name, bytes) in parts {
        let package = Package::from_bytes(&format!("littoral:{name}"), None, bytes.clone(), graph.types_mut())
            .with_context(|| format!("'{name}' is not a component"))?;
        let world = &graph.types()[package.ty()];
        let imports: Vec<String> = world.imports.keys().cloned().collect();
        let exports: Vec<String> = world.exports.keys().cloned().collect();
        let package = graph.register_package(package)?;
        let instance = graph.instantiate(package);
        for import in imports {
            if let Some((source, _)) = earlier.iter().rev().find(|(_, exports)| exports.contains(&import)) {
                let export = graph.alias_instance_export(*source, &import)?;
                graph
                    .set_instantiation_argument(instance, &import, export)
                    .with_context(|| format!("'{name}' imports a {import} of another shape"))?;
            }
        }
        earlier.push((instance, exports));
    }
    let Some((outermost, exports)) = earlier.pop() else { bail!("a composition needs parts") };
    for name in exports {
        let export = graph.alias_instance_export(outermost, &name)?;
        graph.export(export, &name)?;
    }
    Ok(graph.encode(EncodeOptions::default())?)
}
