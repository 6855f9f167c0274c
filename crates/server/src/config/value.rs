//! Values of settings as people write them.

use std::time::Duration;

/// What is wrong with a value; the setting and its source are added around it.
pub(super) type Bad = String;

/// `64MiB`, `512KiB`, `2GiB`, or plain bytes.
pub(super) fn bytes(text: &str) -> Result<u64, Bad> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit: u64 = match text[digits.len()..].trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        other => return Err(format!("unit {other:?} is not one of B, KiB, MiB, GiB, TiB")),
    };
    let number: u64 = digits.parse().map_err(|_| "it is not a number of bytes".to_owned())?;
    number.checked_mul(unit).ok_or_else(|| "it is larger than 16 EiB".to_owned())
}

/// `200ms`, `10s`, `5m`, `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, Bad> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits.parse().map_err(|_| "it is not a duration".to_owned())?;
    let millis = match text[digits.len()..].trim() {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        other => return Err(format!("unit {other:?} is not one of ms, s, m, h")),
    };
    let millis = number.checked_mul(millis).ok_or("it is too long")?;
    Ok(Duration::from_millis(millis))
}

/// `yes` or `no` in the spellings that files and shells have.
pub(super) fn switch(text: &str) -> Result<bool, Bad> {
    match text {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("it is neither true nor false".to_owned()),
    }
}

/// A whole number between `low` and `high`, both allowed.
pub(super) fn number(text: &str, low: u64, high: u64) -> Result<u64, Bad> {
    let number: u64 = text.parse().map_err(|_| "it is not a whole number".to_owned())?;
    within(number, low, high).map_err(|()| format!("it is not in {low}..={high}"))
}

/// `value` when it lies between `low` and `high`, both allowed.
pub(super) fn within<T: PartialOrd>(value: T, low: T, high: T) -> Result<T, ()> {
    if value < low || value > high { Err(()) } else { Ok(value) }
}

/// Checks `host:port` and gives it back; a lone `:port` means `127.0.0.1:port`.
pub(super) fn address(text: &str) -> Result<String, Bad> {
    let text = match text.strip_prefix(':') {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    let (host, port) = text.rsplit_once(':').ok_or("it has no port")?;
    port.parse::<u16>().map_err(|_| format!("{port:?} is not a port"))?;
    if host.is_empty() || (host.contains(':') && !host.starts_with('[')) {
        return Err("an IPv6 host needs brackets, as in [::1]:7400".to_owned());
    }
    Ok(text)
}
