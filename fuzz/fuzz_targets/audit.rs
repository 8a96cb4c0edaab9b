//! Lines of an audit log: only those that were sealed with the key pass.

#![no_main]

use libfuzzer_sys::fuzz_target;
use littoral_core::audit::{Chain, GENESIS, KEY_BYTES, Record};

fuzz_target!(|data: &[u8]| {
    let chain = || Chain::new(&[7; KEY_BYTES], 0, GENESIS);
    let record = Record { request_id: String::from_utf8_lossy(data).into_owned(), ..Record::default() };
    let (line, _) = chain().seal(&record);
    let line = &line[..line.len() - 1];
    assert_eq!(chain().check(line).expect("what was sealed is whole").request_id, record.request_id);
    for bytes in [data, &[line, data].concat()] {
        assert!(bytes == line || chain().check(bytes).is_err(), "a line passes that was never sealed");
        let _ = chain().begin_at(bytes);
    }
    // One byte of a good line changed.
    if let [at, to, ..] = data {
        let mut changed = line.to_vec();
        let at = usize::from(*at) % changed.len();
        changed[at] ^= to | 1;
        assert!(chain().check(&changed).is_err(), "a changed line passes");
    }
});
