//! When an upstream that is full asks to be left alone, and for how long.

use std::time::SystemTime;

use http::{HeaderMap, StatusCode, header::RETRY_AFTER};
use littoral_core::fleet::shed::MAX_REST;

/// Seconds for which a refusal asks to be left alone, 1..=[`MAX_REST`]; none when it does not.
pub fn asked(status: StatusCode, headers: &HeaderMap) -> Option<u32> {
    if !matches!(status.as_u16(), 429 | 503) {
        return None;
    }
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    seconds(value, SystemTime::now())
}

/// A `retry-after` of RFC 9110, 10.2.3: seconds, or a date.
fn seconds(value: &str, now: SystemTime) -> Option<u32> {
    let value = value.trim();
    let seconds = match value.parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => u64::MAX,
        Err(_) => {
            let left = httpdate::parse_http_date(value).ok()?.duration_since(now).ok()?;
            left.as_secs() + u64::from(left.subsec_nanos() > 0)
        }
    };
    (seconds > 0).then(|| seconds.min(u64::from(MAX_REST)) as u32)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn seconds_and_dates_are_read_and_bounded() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(784_111_777_500);
        for (value, expected) in [
            ("7", Some(7)),
            (" 7 ", Some(7)),
            ("0", None),
            ("86400", Some(MAX_REST)),
            ("99999999999999999999999", Some(MAX_REST)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sunday, 06-Nov-94 08:49:47 GMT", Some(10)),
            ("Sun Nov  6 08:49:47 1994", Some(10)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", None),
            ("Sat, 06 Nov 2094 08:49:37 GMT", Some(MAX_REST)),
            ("-3", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(seconds(value, now), expected, "{value}");
        }
    }

    #[test]
    fn only_who_is_full_asks_to_be_left_alone() {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, http::HeaderValue::from_static("3"))]);
        for (status, expected) in [(429, Some(3)), (503, Some(3)), (500, None), (301, None), (200, None)] {
            assert_eq!(asked(StatusCode::from_u16(status).unwrap(), &headers), expected);
        }
        assert_eq!(asked(StatusCode::TOO_MANY_REQUESTS, &HeaderMap::new()), None);
    }
}
