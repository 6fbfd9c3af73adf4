//! Sums of decimal fractions, exact if they are short enough: INCRBYFLOAT of 0.1 and 0.2 is 0.3.

use super::number::parse_double;

/// Maximum number of decimal places, as in Redis.
const MAX_SCALE: u32 = 17;

/// The decimal fraction `mantissa / 10^scale`.
#[derive(Clone, Copy)]
struct Decimal {
    mantissa: i128,
    scale: u32,
}

/// Returns the text of the sum; `None` if an operand or the sum is not a finite number.
pub fn add(left: &[u8], right: &[u8]) -> Option<String> {
    let doubles = (parse_double(left)?, parse_double(right)?);
    if let (Some(left), Some(right)) = (Decimal::parse(left), Decimal::parse(right))
        && let Some(sum) = left.plus(right)
    {
        return Some(sum.text());
    }
    let sum = doubles.0 + doubles.1;
    // Without an exponent, as Redis formats long doubles in answers.
    sum.is_finite().then(|| sum.to_string())
}

impl Decimal {
    /// Parses a decimal; `None` if it has an exponent or too many digits.
    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
        let scale = u32::try_from(fraction.len()).ok().filter(|scale| *scale <= MAX_SCALE)?;
        let digits = format!("{whole}{fraction}");
        if digits.is_empty() || digits.len() > 30 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let mantissa: i128 = digits.parse().ok()?;
        Some(Self { mantissa: if text.starts_with('-') { -mantissa } else { mantissa }, scale })
    }

    fn plus(self, other: Self) -> Option<Self> {
        let scale = self.scale.max(other.scale);
        let rescaled = |of: Self| of.mantissa.checked_mul(10_i128.checked_pow(scale - of.scale)?);
        Some(Self { mantissa: rescaled(self)?.checked_add(rescaled(other)?)?, scale })
    }

    fn text(self) -> String {
        let digits = format!("{:0>width$}", self.mantissa.unsigned_abs(), width = self.scale as usize + 1);
        let (whole, fraction) = digits.split_at(digits.len() - self.scale as usize);
        let sign = if self.mantissa < 0 { "-" } else { "" };
        match fraction.trim_end_matches('0') {
            "" => format!("{sign}{whole}"),
            fraction => format!("{sign}{whole}.{fraction}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sums_of_short_decimals_are_exact() {
        let cases = [
            ("1", "-1.1", Some("-0.1")),
            ("0.1", "0.2", Some("0.3")),
            ("17179869184", "1.5", Some("17179869185.5")),
            ("-0.5", "0.5", Some("0")),
            ("1e2", "0.5", Some("100.5")),
            ("1.23", "-.03", Some("1.2")),
            ("x", "1", None),
            ("inf", "1", None),
        ];
        for (left, right, sum) in cases {
            assert_eq!(super::add(left.as_bytes(), right.as_bytes()).as_deref(), sum, "{left} + {right}");
        }
    }
}
