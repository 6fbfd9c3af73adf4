//! Restore of a backup over gRPC: one stream in, one out (`helios.v1.Restore`).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use helios_proto::v1::restore_request::Kind;
use helios_proto::v1::restore_response::Kind as Answer;
use helios_proto::v1::{ErrorCode, RestoreRequest, RestoreResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::manager::Admission;
use crate::error::Error;
use crate::node::{Begun, Node};
use crate::raft::restore::Restore;

/// Time between two messages of the caller after which the restore is given up.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(120);

type Answers = mpsc::Sender<Result<RestoreResponse, Status>>;

pub struct RestoreService {
    node: Node,
    admission: Arc<Admission>,
}

impl RestoreService {
    pub fn new(node: Node, admission: Arc<Admission>) -> Self {
        Self { node, admission }
    }
}

#[tonic::async_trait]
impl helios_proto::v1::restore_server::Restore for RestoreService {
    type RestoreStream = ReceiverStream<Result<RestoreResponse, Status>>;

    async fn restore(
        &self,
        request: Request<Streaming<RestoreRequest>>,
    ) -> Result<Response<Self::RestoreStream>, Status> {
        let mut stream = self.admission.admit(request)?;
        let (answers, receiver) = mpsc::channel(2);
        let node = self.node.clone();
        // A task, because a call whose caller is gone is dropped, and the node has to become blank again.
        self.node.inner().runtime.spawn(async move {
            if let Err(error) = restore(&node, &mut stream, &answers).await {
                drop(answers.send(Err(error.into())).await);
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

async fn restore(
    node: &Node,
    stream: &mut Streaming<RestoreRequest>,
    answers: &Answers,
) -> Result<(), Error> {
    let Some(Kind::Header(header)) = next(stream).await? else {
        return Err(Error::invalid("the first message of a restore is its header"));
    };
    let begins = node.clone();
    let restored = match run(node, move || begins.begin_restore(&header)).await? {
        Begun::Before(restored) => *restored,
        Begun::Now(restore) => {
            let restore = Shared { node: node.clone(), restore: Arc::new(Mutex::new(restore)) };
            let taken = take(&restore, stream, answers).await;
            let finished = match taken {
                Ok(()) => restore.with(|node, restore| node.finish_restore(restore)).await,
                Err(error) => Err(error),
            };
            match finished {
                Ok(restored) => restored,
                Err(error) => {
                    let reason = error.clone();
                    let abandon = move |node: &Node, restore: &mut Restore| {
                        node.abandon_restore(restore, &reason);
                        Ok(())
                    };
                    restore.with(abandon).await?;
                    return Err(error);
                }
            }
        }
    };
    answer(answers, Answer::Restored(restored)).await;
    Ok(())
}

/// Takes the base and the entries.
async fn take(
    restore: &Shared,
    stream: &mut Streaming<RestoreRequest>,
    answers: &Answers,
) -> Result<(), Error> {
    let held_bytes = restore.with(|_, restore| restore.held_bytes()).await?;
    answer(answers, Answer::HeldBytes(held_bytes)).await;
    restore.with(|_, restore| restore.load_base()).await?;
    loop {
        match next(stream).await? {
            Some(Kind::Data(data)) => {
                restore
                    .with(move |_, restore| restore.take_data(&data).and_then(|()| restore.load_base()))
                    .await?;
            }
            Some(Kind::Entries(entries)) => {
                restore.with(move |_, restore| restore.take_entries(entries.entries)).await?;
            }
            Some(Kind::End(_)) => return Ok(()),
            Some(Kind::Header(_)) => return Err(Error::invalid("a second header in one restore")),
            None => return Err(Error::invalid("the stream of the restore ends without its last message")),
        }
    }
}

/// A restore whose steps run on blocking threads, one at a time.
struct Shared {
    node: Node,
    restore: Arc<Mutex<Box<Restore>>>,
}

impl Shared {
    async fn with<T: Send + 'static>(
        &self,
        step: impl FnOnce(&Node, &mut Restore) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (node, restore) = (self.node.clone(), Arc::clone(&self.restore));
        let step = move || step(&node, &mut restore.lock().unwrap_or_else(PoisonError::into_inner));
        run(&self.node, step).await
    }
}

/// Runs `step` on a blocking thread. A panic ends the process, as one in a thread of a member does.
async fn run<T: Send + 'static>(
    node: &Node,
    step: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(step).await.unwrap_or_else(|error| {
        if error.is_panic() {
            node.inner().fatal.raise(format!("restoring a backup: {error}"));
        }
        Err(Error::new(ErrorCode::Internal, error.to_string()))
    })
}

async fn next(stream: &mut Streaming<RestoreRequest>) -> Result<Option<Kind>, Error> {
    let message = tokio::time::timeout(MESSAGE_TIMEOUT, stream.message()).await;
    let message = message.map_err(|_| {
        let message = format!("no message of the restore for {} s", MESSAGE_TIMEOUT.as_secs());
        Error::new(ErrorCode::DeadlineExceeded, message)
    })?;
    match message {
        Ok(None) => Ok(None),
        Ok(Some(RestoreRequest { kind: Some(kind) })) => Ok(Some(kind)),
        Ok(Some(RestoreRequest { kind: None })) => {
            Err(Error::invalid("a message of a kind that this build does not know: upgrade the node"))
        }
        Err(status) => {
            let message = format!("the stream of the restore broke: {}", status.message());
            Err(Error::new(ErrorCode::PeerUnreachable, message))
        }
    }
}

async fn answer(answers: &Answers, kind: Answer) {
    // A caller that is gone gets the answer to its next call.
    drop(answers.send(Ok(RestoreResponse { kind: Some(kind) })).await);
}
