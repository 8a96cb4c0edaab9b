//! What the node's example `speed` says, read by lines.

/// Tokens a second.
#[derive(Debug, PartialEq)]
pub struct Speed {
    /// The device, as the node names it.
    pub device: String,
    /// Of 512 tokens.
    pub prefill: f64,
    pub decode_1: f64,
    /// All eight sequences together.
    pub decode_8: f64,
}

impl Speed {
    /// None if a line is missing.
    pub fn read(said: &str) -> Option<Self> {
        let after = |start: &str| said.lines().find_map(|line| line.strip_prefix(start));
        let rate = |text: &str| text.trim_start().split(' ').next()?.parse().ok();
        let prefill = rate(after("prefill of 512: ")?.split_once(" s, ")?.1)?;
        let decode = |batch: &str| rate(after(&format!("decode, batch {batch}, "))?.split_once(" blocks: ")?.1);
        // MODEL on DEVICE, loaded in SECONDS s
        let (device, _) = said.lines().next()?.rsplit_once(", loaded in ")?;
        let (_, device) = device.split_once(" on ")?;
        Some(Self { device: device.to_owned(), prefill, decode_1: decode("1")?, decode_8: decode("8")? })
    }
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    const SAID: &str = "\
tiny on cpu (flex, 2 threads, AVX2+FMA), loaded in 0.01 s
prefill of 32: 0.010 s, 3200 tokens/s
prefill of 512: 0.100 s, 5120 tokens/s
decode, batch 1, 512 tokens past, neighbouring blocks: 100.5 tokens/s, best step 101.0
decode, batch 8, 512 tokens past, neighbouring blocks: 300.0 tokens/s, best step 310.0
decode, batch 1, 512 tokens past, scattered blocks: 90.0 tokens/s, best step 91.0
";

    #[test]
    fn rates_are_read() {
        let device = "cpu (flex, 2 threads, AVX2+FMA)".to_owned();
        let speed = Speed { device, prefill: 5120.0, decode_1: 100.5, decode_8: 300.0 };
        assert_eq!(Speed::read(SAID), Some(speed));
        assert_eq!(Speed::read(&SAID.replace("prefill of 512", "prefill of 500")), None);
    }
}
