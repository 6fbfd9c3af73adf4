//! A network between a sidecar and a member that can be cut: nothing is sent and no connection is closed, as when
//! packets are lost.

use std::io;

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Connections to one port; they end when it is dropped.
pub struct Wire {
    _tasks: JoinSet<()>,
}

impl Wire {
    /// Forwards connections at `listen` to `target` while `is_open`.
    pub async fn start(listen: u16, target: u16, is_open: watch::Receiver<bool>) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", listen)).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                // An error ends a connection, as it does for both sides.
                connections.spawn(forward(stream, target, is_open.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { _tasks: tasks })
    }
}

async fn forward(from: TcpStream, target: u16, mut is_open: watch::Receiver<bool>) -> io::Result<()> {
    if is_open.wait_for(|open| *open).await.is_err() {
        return Ok(());
    }
    let to = TcpStream::connect(("127.0.0.1", target)).await?;
    from.set_nodelay(true)?;
    to.set_nodelay(true)?;
    let ((from_read, from_write), (to_read, to_write)) = (from.into_split(), to.into_split());
    tokio::try_join!(copy(from_read, to_write, is_open.clone()), copy(to_read, from_write, is_open))?;
    Ok(())
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut is_open: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut buffer).await?;
        if is_open.wait_for(|open| *open).await.is_err() {
            return Ok(());
        }
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
    }
}
