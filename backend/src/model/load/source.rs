//! Tensors taken out of a checkpoint one by one: each must be there, once, with the shape that the configuration says.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use half::bf16;
use littoral_kernels::{Arithmetic, Format, dequantize, quantize};

use crate::weights::{self, Checkpoint, Kind};

use super::{
    super::{
        config::Config,
        error::Problem,
        linear::{Linear, Weight},
        ops::Matrix,
    },
    Precision, blocks, names,
};

/// Rows and columns that share a scale of FP8 weights, unless the configuration says otherwise.
const FP8_BLOCK: [usize; 2] = [128, 128];

pub struct Source<'a> {
    checkpoint: &'a Checkpoint,
    /// The checkpoint's names of tensors that were not taken yet, by the names here.
    left: BTreeMap<String, &'a str>,
    fp8_block: [usize; 2],
    pub precision: Precision,
    pub device: &'a Device,
    done: u64,
    all: u64,
    progress: &'a dyn Fn(u64, u64),
}

/// A matrix in one of the formats that kernels read.
pub struct Stored<'a> {
    /// The checkpoint's name of it.
    name: &'a str,
    pub format: Format,
    rows: usize,
    bytes: Cow<'a, [u8]>,
}

impl Stored<'_> {
    /// The bytes of some rows.
    pub fn rows(&self, rows: Range<usize>) -> &[u8] {
        let width = self.bytes.len() / self.rows;
        &self.bytes[rows.start * width..rows.end * width]
    }
}

impl<'a> Source<'a> {
    pub fn new(
        checkpoint: &'a Checkpoint,
        config: &Config,
        precision: Precision,
        device: &'a Device,
        progress: &'a dyn Fn(u64, u64),
    ) -> Result<Self, Problem> {
        let skipped: BTreeSet<&str> = names::skipped(config, checkpoint).into_iter().collect();
        let mut left = BTreeMap::new();
        for name in checkpoint.names().filter(|name| !skipped.contains(name) && !names::derived(name)) {
            let canonical = names::canonical(config, name);
            if let Some(other) = left.insert(canonical.clone(), name) {
                return Err(Problem::Unsupported(format!("the tensors '{other}' and '{name}' are both {canonical}")));
            }
        }
        let fp8_block = fp8_block(checkpoint.config())?;
        let read: BTreeSet<&str> = left.values().copied().collect();
        let all = checkpoint.table().filter(|t| read.contains(t.name)).map(|t| t.bytes as u64).sum();
        progress(0, all);
        Ok(Self { checkpoint, left, fp8_block, precision, device, done: 0, all, progress })
    }

    /// Whether a tensor is there and was not taken.
    pub fn has(&self, name: &str) -> bool {
        self.left.contains_key(name)
    }

    /// An error that names a tensor which nothing took.
    pub fn finish(self) -> Result<(), Problem> {
        match self.left.values().next() {
            None => Ok(()),
            Some(name) => Err(Problem::Unsupported(format!(
                "the tensor '{name}' is no part of this architecture as it is run here{}",
                if self.left.len() > 1 { format!(" (nor are {} others)", self.left.len() - 1) } else { String::new() }
            ))),
        }
    }

    /// Takes a tensor, whatever its shape.
    fn take(&mut self, name: &str) -> Result<weights::Tensor<'a>, Problem> {
        Ok(self.take_named(name)?.1)
    }

    /// Takes a tensor, with the checkpoint's name of it.
    fn take_named(&mut self, name: &str) -> Result<(&'a str, weights::Tensor<'a>), Problem> {
        let missing = || Problem::Unsupported(format!("the tensor '{name}' is missing"));
        let theirs = self.left.remove(name).ok_or_else(missing)?;
        Ok((theirs, self.checkpoint.tensor(theirs).ok_or_else(missing)?))
    }

    fn shaped(&mut self, name: &str, shape: &[usize]) -> Result<weights::Tensor<'a>, Problem> {
        let tensor = self.take(name)?;
        if tensor.shape == shape {
            return Ok(tensor);
        }
        Err(wrong(name, format!("has the shape {:?}; the configuration says {shape:?}", tensor.shape)))
    }

    /// A tensor's bytes were read and are not needed any more.
    fn forget(&mut self, tensor: &weights::Tensor) {
        self.checkpoint.forget(tensor);
        self.done += tensor.bytes.len() as u64;
        (self.progress)(self.done, self.all);
    }

    /// The numbers of a tensor.
    pub fn floats(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Problem> {
        let tensor = self.shaped(name, shape)?;
        let numbers = numbers(name, &tensor)?;
        self.forget(&tensor);
        match numbers.iter().all(|x| x.is_finite()) {
            true => Ok(numbers),
            false => Err(wrong(name, "holds numbers that are infinite or no numbers".into())),
        }
    }

    pub fn vector(&mut self, name: &str, n: usize) -> Result<Tensor<1>, Problem> {
        Ok(Tensor::from_data(TensorData::new(self.floats(name, &[n])?, [n]), self.device))
    }

    /// `[1, n]`
    pub fn row(&self, numbers: Vec<f32>) -> Tensor<2> {
        let n = numbers.len();
        Tensor::from_data(TensorData::new(numbers, [1, n]), self.device)
    }

    pub fn table_of_floats(&mut self, name: &str, shape: [usize; 2]) -> Result<Tensor<2>, Problem> {
        Ok(Tensor::from_data(TensorData::new(self.floats(name, &shape)?, shape), self.device))
    }

    /// Whole numbers below `below`.
    pub fn table(&mut self, name: &str, shape: [usize; 2], below: usize) -> Result<Tensor<2, Int>, Problem> {
        let tensor = self.shaped(name, &shape)?;
        let numbers: Vec<i64> = match tensor.kind {
            Kind::I32 => tensor.bytes.as_chunks().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect(),
            Kind::I64 => tensor.bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
            kind => return Err(wrong(name, format!("is {kind}, not I32 or I64"))),
        };
        self.forget(&tensor);
        if let Some(n) = numbers.iter().find(|n| !(0..below as i64).contains(*n)) {
            return Err(wrong(name, format!("holds {n}; there are {below} experts")));
        }
        let numbers: Vec<i32> = numbers.into_iter().map(|n| n as i32).collect();
        Ok(Tensor::from_data(TensorData::new(numbers, shape), (self.device, DType::I32)))
    }

    /// A matrix as it lies in memory later.
    pub fn stored(&mut self, name: &str, rows: usize, cols: usize) -> Result<Stored<'a>, Problem> {
        let (theirs, tensor) = self.take_named(name)?;
        let packed = matches!(tensor.kind, Kind::I8 | Kind::U8);
        let expected = if packed { [rows, cols / 2] } else { [rows, cols] };
        if tensor.shape != expected {
            return Err(wrong(name, format!("has the shape {:?}; the configuration says {expected:?}", tensor.shape)));
        }
        let (format, bytes) = match tensor.kind {
            Kind::F8E4M3 => {
                let block = self.fp8_block;
                let shape = [rows.div_ceil(block[0]), cols.div_ceil(block[1])];
                let scales = self.scales(name, &shape)?;
                let scales = self.numbers_of(name, scales)?;
                let bytes = blocks::fp8(&tensor.bytes, cols, &scales, block);
                (Format::F8E4M3 { block: block[1] as u16 }, Cow::Owned(bytes))
            }
            Kind::I8 | Kind::U8 => {
                let scales = self.scales(name, &[rows, cols / blocks::FP4_BLOCK])?;
                if scales.kind != Kind::F8E8M0 || !cols.is_multiple_of(blocks::FP4_BLOCK) {
                    return Err(wrong(name, format!("is packed FP4 with scales in {}, not F8_E8M0", scales.kind)));
                }
                let bytes = blocks::fp4(&tensor.bytes, &scales.bytes);
                self.forget(&scales);
                (Format::Mxfp4, Cow::Owned(bytes))
            }
            kind => {
                let format = kind.format().ok_or_else(|| {
                    wrong(
                        name,
                        format!("is {kind}; F32, F16, BF16, FP8 with scales and GGUF's Q formats are read here"),
                    )
                })?;
                (format, tensor.bytes.clone())
            }
        };
        if format.row_bytes(cols).is_none_or(|row| row * rows != bytes.len()) {
            return Err(wrong(name, format!("rows of {cols} elements are no whole blocks of {format}")));
        }
        if !blocks::finite(format, &bytes) {
            return Err(wrong(name, "holds numbers that are infinite or no numbers".into()));
        }
        let (format, bytes) = self.quantized(format, cols, bytes);
        // What is still a view of the file is copied into its place in the model, and forgotten then.
        if matches!(bytes, Cow::Owned(_)) {
            self.forget(&tensor);
        }
        Ok(Stored { name: theirs, format, rows, bytes })
    }

    /// The scales of a tensor of blocks.
    fn scales(&mut self, name: &str, shape: &[usize]) -> Result<weights::Tensor<'a>, Problem> {
        let base = name.strip_suffix(".weight").unwrap_or(name);
        let names = [format!("{base}.weight_scale_inv"), format!("{base}.scale")];
        match names.iter().find(|name| self.has(name)) {
            Some(name) => self.shaped(name, shape),
            None => Err(wrong(name, format!("is in blocks whose scales are missing: '{}'", names.join("' or '")))),
        }
    }

    fn numbers_of(&mut self, name: &str, scales: weights::Tensor) -> Result<Vec<f32>, Problem> {
        let numbers = numbers(name, &scales)?;
        self.forget(&scales);
        Ok(numbers)
    }

    /// Plain numbers brought into the format that was asked for, where rows are whole blocks of it.
    fn quantized(&self, format: Format, cols: usize, bytes: Cow<'a, [u8]>) -> (Format, Cow<'a, [u8]>) {
        let plain = matches!(format, Format::F32 | Format::F16 | Format::BF16);
        let Some(to) = self.precision.quantize.filter(|to| plain && to.row_bytes(cols).is_some()) else {
            return (format, bytes);
        };
        let Some(row) = format.row_bytes(cols) else { return (format, bytes) };
        let mut numbers = vec![0.0; cols];
        let mut out = Vec::with_capacity(bytes.len() / row * to.row_bytes(cols).unwrap_or(0));
        for row in bytes.chunks_exact(row) {
            dequantize(format, cols, row, &mut numbers);
            // Rows that cannot be brought into it stay as they are, and so does the whole matrix.
            if quantize(to, &numbers, &mut out).is_err() {
                return (format, bytes);
            }
        }
        (to, Cow::Owned(out))
    }

    /// Matrices of the same columns; neighbours stored alike become one.
    pub fn matrix(&mut self, parts: &[(String, usize)], cols: usize) -> Result<Vec<Weight>, Problem> {
        let stored = parts.iter().map(|(name, rows)| self.stored(name, *rows, cols)).collect::<Result<Vec<_>, _>>()?;
        let weight = |alike: &[Stored]| {
            let rows = alike.iter().map(|stored| stored.rows).sum();
            let matrix = Matrix { format: alike[0].format, rows, cols, arithmetic: self.precision.arithmetic };
            match alike {
                [one] => Weight::new(&one.bytes, matrix, self.device),
                _ => Weight::new(
                    &alike.iter().map(|stored| &*stored.bytes).collect::<Vec<_>>().concat(),
                    matrix,
                    self.device,
                ),
            }
        };
        let weights = stored.chunk_by(|a, b| a.format == b.format).map(weight).collect();
        stored.iter().for_each(|stored| self.copied(stored));
        Ok(weights)
    }

    /// A view of the file was copied.
    fn copied(&mut self, stored: &Stored<'a>) {
        if matches!(stored.bytes, Cow::Borrowed(_))
            && let Some(tensor) = self.checkpoint.tensor(stored.name)
        {
            self.forget(&tensor);
        }
    }

    /// The layers `<prefix><name>.weight` side by side, with their biases.
    pub fn linear(
        &mut self,
        prefix: &str,
        parts: &[(&str, usize)],
        cols: usize,
        bias: bool,
    ) -> Result<Linear, Problem> {
        let named: Vec<_> = parts.iter().map(|(name, rows)| (format!("{prefix}{name}.weight"), *rows)).collect();
        let weights = self.matrix(&named, cols)?;
        let bias = match bias {
            false => None,
            true => {
                let mut all = Vec::new();
                for (name, rows) in parts {
                    all.extend(self.floats(&format!("{prefix}{name}.bias"), &[*rows])?);
                }
                Some(self.row(all))
            }
        };
        Ok(Linear::new(weights, bias))
    }

    /// The embedding and the output matrix, `[vocab, dim]` each. They are one where the file has one and they are tied, or
    /// where it has both and they are equal.
    pub fn ends(
        &mut self,
        [embedding, head]: [&str; 2],
        [vocab, dim]: [usize; 2],
        tied: bool,
    ) -> Result<(Weight, Linear), Problem> {
        let bytes = |source: &Self, name: &str| {
            source.left.get(name).and_then(|theirs| source.checkpoint.tensor(theirs)).map(|tensor| tensor.bytes)
        };
        let one = match (bytes(self, embedding), bytes(self, head)) {
            (Some(embedding), Some(head)) => tied && embedding == head,
            _ => tied,
        };
        let first = if self.has(embedding) || !one { embedding } else { head };
        let weight = self.matrix(&[(first.to_owned(), vocab)], dim)?.remove(0);
        if !one {
            let head = self.matrix(&[(head.to_owned(), vocab)], dim)?;
            return Ok((weight, Linear::new(head, None)));
        }
        self.left.remove(embedding);
        self.left.remove(head);
        Ok((weight.clone(), Linear::new(vec![weight], None)))
    }

    /// A matrix that is always computed with exactly.
    pub fn exact(&mut self, name: &str, rows: usize, cols: usize) -> Result<Weight, Problem> {
        let Precision { arithmetic, quantize } = self.precision;
        self.precision = Precision { arithmetic: Arithmetic::Exact, quantize: None };
        let weights = self.matrix(&[(name.to_owned(), rows)], cols);
        self.precision = Precision { arithmetic, quantize };
        Ok(weights?.remove(0))
    }

    /// A matrix of `count` times `rows` rows, as that many matrices.
    pub fn split(&mut self, name: &str, count: usize, rows: usize, cols: usize) -> Result<Weight, Problem> {
        let stored = self.stored(name, count * rows, cols)?;
        let matrix = Matrix { format: stored.format, rows, cols, arithmetic: self.precision.arithmetic };
        let weight = Weight::new(&stored.bytes, matrix, self.device);
        self.copied(&stored);
        Ok(weight)
    }

    /// One matrix for each expert, `[experts, rows, cols]`, of the matrices `names` one below the other; stored expert by
    /// expert, or stacked.
    pub fn stack(
        &mut self,
        prefix: &str,
        names: &[&str],
        [experts, rows, cols]: [usize; 3],
    ) -> Result<Weight, Problem> {
        let stacked = |name: &str| format!("{prefix}experts.{name}.weight");
        let mut format = None;
        let mut out = Vec::new();
        let mut add = |name: &str, found: Format, bytes: &[u8]| {
            if *format.get_or_insert(found) != found {
                let what = "is stored in another format than its neighbours, which is not run here".into();
                return Err(wrong(name, what));
            }
            out.extend_from_slice(bytes);
            Ok(())
        };
        if self.has(&stacked(names[0])) {
            let mut all = Vec::new();
            for name in names {
                let name = stacked(name);
                let shape = [experts, rows, cols];
                let flat = self.left.get(&name).and_then(|theirs| self.checkpoint.tensor(theirs));
                if let Some(tensor) = flat.filter(|tensor| tensor.shape != shape) {
                    let what = format!("has the shape {:?}; the configuration says {shape:?}", tensor.shape);
                    return Err(wrong(&name, what));
                }
                all.push((self.stored_stack(&name, experts * rows, cols)?, name));
            }
            for expert in 0..experts {
                for (stored, name) in &all {
                    add(name, stored.format, stored.rows(expert * rows..(expert + 1) * rows))?;
                }
            }
            for (stored, _) in &all {
                self.copied(stored);
            }
        } else {
            for expert in 0..experts {
                for name in names {
                    let name = format!("{prefix}experts.{expert}.{name}.weight");
                    let stored = self.stored(&name, rows, cols)?;
                    add(&name, stored.format, &stored.bytes)?;
                    self.copied(&stored);
                }
            }
        }
        let format = format.ok_or_else(|| Problem::Unsupported("a layer of no experts".into()))?;
        let rows = names.len() * rows;
        let matrix = Matrix { format, rows, cols, arithmetic: self.precision.arithmetic };
        Ok(Weight::new(&out, matrix, self.device))
    }

    /// A stack of matrices, whose shape has been checked, as one matrix.
    fn stored_stack(&mut self, name: &str, rows: usize, cols: usize) -> Result<Stored<'a>, Problem> {
        let (theirs, tensor) = self.take_named(name)?;
        let format = tensor.kind.format().ok_or_else(|| wrong(name, format!("is {}", tensor.kind)))?;
        if format.row_bytes(cols).is_none_or(|row| row * rows != tensor.bytes.len()) {
            return Err(wrong(name, format!("rows of {cols} elements are no whole blocks of {format}")));
        }
        if !blocks::finite(format, &tensor.bytes) {
            return Err(wrong(name, "holds numbers that are infinite or no numbers".into()));
        }
        let (format, bytes) = self.quantized(format, cols, tensor.bytes.clone());
        Ok(Stored { name: theirs, format, rows, bytes })
    }
}

fn wrong(name: &str, what: String) -> Problem {
    Problem::Unsupported(format!("the tensor '{name}' {what}"))
}

/// A tensor's elements as f32.
fn numbers(name: &str, tensor: &weights::Tensor) -> Result<Vec<f32>, Problem> {
    if tensor.kind == Kind::F8E8M0 {
        return Ok(tensor.bytes.iter().map(|e| f32::from(bf16::from_bits(u16::from(*e) << 7))).collect());
    }
    let format = tensor.kind.format().ok_or_else(|| wrong(name, format!("is {}, not a number", tensor.kind)))?;
    let mut out = vec![0.0; tensor.elements()];
    let cols = tensor.shape.last().copied().unwrap_or(1);
    if format.row_bytes(cols).is_none_or(|row| row * (out.len() / cols.max(1)) != tensor.bytes.len()) {
        return Err(wrong(name, format!("rows of {cols} elements are no whole blocks of {format}")));
    }
    dequantize(format, cols, &tensor.bytes, &mut out);
    Ok(out)
}

/// `quantization_config.weight_block_size`. Another method than FP8 is refused.
pub(super) fn fp8_block(config: &serde_json::Map<String, serde_json::Value>) -> Result<[usize; 2], Problem> {
    let Some(quantization) = config.get("quantization_config").filter(|q| !q.is_null()) else { return Ok(FP8_BLOCK) };
    let method = quantization["quant_method"].as_str().unwrap_or("none");
    if method != "fp8" {
        return Err(Problem::Unsupported(format!(
            "config key 'quantization_config.quant_method' is '{method}', which is not run here: fp8 is, and GGUF files"
        )));
    }
    let size = &quantization["weight_block_size"];
    if size.is_null() {
        return Ok(FP8_BLOCK);
    }
    let side = |i: usize| size[i].as_u64().filter(|n| (1..=u64::from(u16::MAX)).contains(n)).map(|n| n as usize);
    match (side(0), side(1)) {
        (Some(rows), Some(cols)) => Ok([rows, cols]),
        _ => Err(Problem::Unsupported(format!(
            "config key 'quantization_config.weight_block_size' is {size}: expected two whole numbers"
        ))),
    }
}
