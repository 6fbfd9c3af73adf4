//! The part of the Redis protocol that SET and GET need. The same code drives heliosd and Redis.

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub struct Resp {
    stream: TcpStream,
    out: Vec<u8>,
    input: BytesMut,
}

#[derive(Debug, PartialEq, Eq)]
enum Reply {
    Ok,
    Error(String),
    Missing,
    Found,
}

impl Resp {
    pub async fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, out: Vec::new(), input: BytesMut::new() })
    }

    pub async fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let refused = self.set_each(&[(key, value)], || {}).await?;
        ensure!(refused.is_none(), "SET was answered by {refused:?}");
        Ok(())
    }

    /// Sets every key in one pipeline, and calls `acknowledged` at each acknowledgement. Returns the last error reply.
    pub async fn set_each<K: AsRef<[u8]>>(
        &mut self,
        pairs: &[(K, &[u8])],
        mut acknowledged: impl FnMut(),
    ) -> Result<Option<String>> {
        self.out.clear();
        for (key, value) in pairs {
            command(&mut self.out, &[b"SET", key.as_ref(), value]);
        }
        self.stream.write_all(&self.out).await?;
        let mut refused = None;
        for _ in pairs {
            match self.reply().await? {
                Reply::Ok => acknowledged(),
                Reply::Error(error) => refused = Some(error),
                other => bail!("SET was answered by {other:?}"),
            }
        }
        Ok(refused)
    }

    pub async fn get(&mut self, key: &[u8]) -> Result<bool> {
        self.out.clear();
        command(&mut self.out, &[b"GET", key]);
        self.stream.write_all(&self.out).await?;
        match self.reply().await? {
            Reply::Found => Ok(true),
            Reply::Missing => Ok(false),
            other => bail!("GET was answered by {other:?}"),
        }
    }

    /// Gets every key in one pipeline; an error if one is missing.
    pub async fn get_each<K: AsRef<[u8]>>(&mut self, keys: &[K]) -> Result<()> {
        self.out.clear();
        for key in keys {
            command(&mut self.out, &[b"GET", key.as_ref()]);
        }
        self.stream.write_all(&self.out).await?;
        for _ in keys {
            match self.reply().await? {
                Reply::Found => {}
                other => bail!("GET was answered by {other:?}"),
            }
        }
        Ok(())
    }

    /// Reads a key and asks for the index of that read: what a sidecar does to know the age of its state.
    pub async fn read_index(&mut self, key: &[u8]) -> Result<()> {
        self.out.clear();
        command(&mut self.out, &[b"GET", key]);
        command(&mut self.out, &[b"HELIOS.TOKEN", b"SEEN"]);
        self.stream.write_all(&self.out).await?;
        for _ in 0..2 {
            match self.reply().await? {
                Reply::Found | Reply::Missing => {}
                other => bail!("a read with its index was answered by {other:?}"),
            }
        }
        Ok(())
    }

    async fn reply(&mut self) -> Result<Reply> {
        loop {
            if let Some((reply, length)) = parse(&self.input)? {
                self.input.advance(length);
                return Ok(reply);
            }
            let read = self.stream.read_buf(&mut self.input).await?;
            ensure!(read > 0, "the server closed the connection");
        }
    }
}

fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    let length = |out: &mut Vec<u8>, kind: char, length: usize| {
        out.extend_from_slice(format!("{kind}{length}\r\n").as_bytes());
    };
    length(out, '*', words.len());
    for word in words {
        length(out, '$', word.len());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// Parses the first reply in `input`; returns it with its length, or `None` when it is incomplete.
fn parse(input: &[u8]) -> Result<Option<(Reply, usize)>> {
    let Some(end) = input.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
    let line = std::str::from_utf8(&input[..end]).context("a reply that is no text")?;
    let line_length = end + 2;
    let (kind, rest) = line.split_at_checked(1).context("an empty reply")?;
    Ok(match kind {
        "+" => Some((Reply::Ok, line_length)),
        "-" => Some((Reply::Error(rest.to_owned()), line_length)),
        "$" if rest == "-1" => Some((Reply::Missing, line_length)),
        "_" => Some((Reply::Missing, line_length)),
        "$" => {
            let length = line_length + rest.parse::<usize>()? + 2;
            (input.len() >= length).then_some((Reply::Found, length))
        }
        _ => bail!("a reply of unknown kind: {line}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_parsed() {
        assert_eq!(parse(b"+OK\r\n$1").unwrap(), Some((Reply::Ok, 5)));
        assert_eq!(parse(b"$3\r\nabc\r\n").unwrap(), Some((Reply::Found, 9)));
        assert_eq!(parse(b"$-1\r\n").unwrap(), Some((Reply::Missing, 5)));
        assert_eq!(parse(b"-BUSY x\r\n").unwrap(), Some((Reply::Error("BUSY x".into()), 9)));
        for partial in [&b""[..], b"+O", b"+OK\r", b"$3\r\nabc\r"] {
            assert_eq!(parse(partial).unwrap(), None);
        }
        assert!(parse(b"?\r\n").is_err());
    }

    #[test]
    fn commands_are_encoded() {
        let mut out = Vec::new();
        command(&mut out, &[b"GET", b"key"]);
        assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n");
    }
}
