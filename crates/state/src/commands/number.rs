//! Parsing and formatting of floating-point numbers as in Redis.

/// Parses a number; rejects NaN, accepts `inf`.
pub fn parse_double(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    text.parse::<f64>().ok().filter(|number| !number.is_nan())
}

/// Returns the shortest text that parses to the same number.
pub fn double_text(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let size = number.abs();
    if size == 0.0 || (1e-5..1e17).contains(&size) {
        return number.to_string();
    }
    let text = format!("{number:e}");
    // C writes the sign of the exponent.
    if text.contains("e-") { text } else { text.replace('e', "e+") }
}

/// Encodes a number as eight bytes that sort like numbers; -0 becomes 0. Not for NaN.
pub fn sortable(number: f64) -> [u8; 8] {
    let bits = (number + 0.0).to_bits();
    let flipped = if bits >> 63 == 0 { bits | 1 << 63 } else { !bits };
    flipped.to_be_bytes()
}

pub fn from_sortable(bytes: [u8; 8]) -> f64 {
    let flipped = u64::from_be_bytes(bytes);
    f64::from_bits(if flipped >> 63 == 1 { flipped & !(1 << 63) } else { !flipped })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sortable_bytes_sort_as_numbers_and_decode() {
        let numbers = [f64::NEG_INFINITY, -1e300, -2.5, -1.0, -1e-300, 0.0, 1e-300, 1.0, 2.5, f64::INFINITY];
        assert!(numbers.map(sortable).is_sorted());
        assert_eq!(numbers.map(|number| from_sortable(sortable(number))), numbers);
        assert_eq!(sortable(-0.0), sortable(0.0));
    }

    #[test]
    fn double_text_matches_redis() {
        let cases = [
            (0.0, "0"),
            (3.0, "3"),
            (-1.5, "-1.5"),
            (0.1, "0.1"),
            (17179869184.0, "17179869184"),
            (1e22, "1e+22"),
            (1e-7, "1e-7"),
            (f64::NEG_INFINITY, "-inf"),
        ];
        for (number, text) in cases {
            assert_eq!(double_text(number), text);
        }
        assert_eq!(parse_double(b"nan"), None);
        assert_eq!(parse_double(b" 1"), None);
        assert_eq!(parse_double(b"+inf"), Some(f64::INFINITY));
    }
}
