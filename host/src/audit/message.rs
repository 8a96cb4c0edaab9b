//! Audit lines as syslog messages (RFC 5424), framed by their length (RFC 5425, section 4.3).

use littoral_core::audit::Record;

use super::trail::Line;

/// Facility 13 (log audit) and severity 6 (informational): RFC 5424, section 6.2.1.
const PRIORITY: u32 = 13 * 8 + 6;
/// Longest host name and message id (sections 6.2.4 and 6.2.7).
const MAX_HOST: usize = 255;
/// Largest `sequenceId` (section 7.3.1).
const MAX_SEQUENCE: u64 = 2_147_483_647;

/// Who sends.
#[derive(Debug, Clone)]
pub struct Sender {
    host: String,
    process: u32,
}

impl Sender {
    /// A host of this name; characters that syslog does not take are left out.
    pub fn new(host: &str, process: u32) -> Self {
        let host: String = host.chars().filter(char::is_ascii_graphic).take(MAX_HOST).collect();
        Self { host: if host.is_empty() { "-".into() } else { host }, process }
    }

    /// Appends a line to `out`. The message's text is the line itself, so that the chain can be verified from what arrives.
    pub fn frame(&self, line: &Line, record: Option<&Record>, out: &mut Vec<u8>) {
        let or_nil = |text: Option<&String>| match text {
            Some(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()) => text.clone(),
            _ => "-".to_string(),
        };
        let timestamp = or_nil(record.map(|record| &record.timestamp));
        let kind = or_nil(record.map(|record| &record.event_type));
        let sequence = line.seq.saturating_sub(1) % MAX_SEQUENCE + 1;
        let head = format!(
            "<{PRIORITY}>1 {timestamp} {} littoral {} {kind} [meta sequenceId=\"{sequence}\"] ",
            self.host, self.process
        );
        out.extend_from_slice(format!("{} ", head.len() + line.text.len()).as_bytes());
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(&line.text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_frame_with_its_time_and_kind() {
        let sender = Sender::new("edge 1.example", 7);
        let text = br#"{"seq":2147483649,"mac":"x"}"#.to_vec();
        let line = Line { seq: 2_147_483_649, text };
        let record =
            Record { timestamp: "2026-11-25T02:33:24.123Z".into(), event_type: "request".into(), ..Record::default() };
        let mut out = Vec::new();
        sender.frame(&line, Some(&record), &mut out);
        let expected = "<110>1 2026-11-25T02:33:24.123Z edge1.example littoral 7 request \
                        [meta sequenceId=\"2\"] {\"seq\":2147483649,\"mac\":\"x\"}";
        assert_eq!(String::from_utf8(out).unwrap(), format!("{} {expected}", expected.len()));
    }

    #[test]
    fn what_cannot_be_read_is_sent_all_the_same() {
        let mut out = Vec::new();
        Sender::new("", 1).frame(&Line { seq: 3, text: b"\xff".to_vec() }, None, &mut out);
        assert_eq!(out, b"47 <110>1 - - littoral 1 - [meta sequenceId=\"3\"] \xff");
    }
}
