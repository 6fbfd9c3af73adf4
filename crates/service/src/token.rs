//! Text form of a [`Token`], for protocols without fields: `cluster:term:index`.

use helios_proto::v1::Token;

pub fn print(token: &Token) -> String {
    let Token { cluster_id, term, index } = token;
    format!("{cluster_id}:{term}:{index}")
}

/// Parses the text of a token; `None` if it is not of the form that [`print()`] writes.
pub fn parse(text: &str) -> Option<Token> {
    let mut parts = text.rsplitn(3, ':');
    let index = parts.next()?.parse().ok()?;
    let term = parts.next()?.parse().ok()?;
    let cluster_id = parts.next().filter(|id| !id.is_empty())?.to_owned();
    Some(Token { cluster_id, term, index })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_round_trips_through_text() {
        for cluster_id in ["static-00c0ffee", "with:colons"] {
            let token = Token { cluster_id: cluster_id.into(), term: 3, index: u64::MAX };
            assert_eq!(parse(&print(&token)), Some(token));
        }
    }

    #[test]
    fn malformed_tokens_are_rejected() {
        for text in ["", ":", "::", "a:1", "a:1:", ":1:1", "a:-1:1", "a:1:x", "a:1:18446744073709551616"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
