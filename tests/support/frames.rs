//! What a scripted client receives of a file: its frames, and what the sender says of it.

use super::script::ScriptedClient;
use haul::net::data::carry::ReadFrames;
use haul::net::data::connection::FrameWriter;
use haul::net::data::payload::ReceivedFrame;
use haul::net::wire::frame::{FrameHeader, FrameKind};
use haul::net::wire::proto::{self, control_message::Body, transfer_message};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A data connection whose frames are received as they come. It is cut where this is dropped.
pub struct Connection {
    pub frames: mpsc::UnboundedReceiver<ReceivedFrame>,
    reading: JoinHandle<()>,
    _writer: FrameWriter,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Connection {
    pub async fn new(client: &ScriptedClient, n: u32) -> Connection {
        let (mut reader, writer) = client.data(&client.attach(n)).await.unwrap();
        let (send, frames) = mpsc::unbounded_channel();
        let reading = tokio::spawn(async move {
            while let Ok(Some(frame)) = reader.next().await {
                let _ = send.send(frame);
            }
        });
        Connection {
            frames,
            reading,
            _writer: writer,
        }
    }

    /// The next frame that is about a file.
    pub async fn next(&mut self) -> ReceivedFrame {
        loop {
            let frame = self.frames.recv().await.expect("the server hung up");
            if !matches!(frame.header.kind, FrameKind::Ping | FrameKind::Pong) {
                return frame;
            }
        }
    }
}

pub async fn acknowledge(client: &mut ScriptedClient, header: &FrameHeader) {
    let ack = proto::Ack {
        number: header.number,
        offset: header.offset,
        length: u64::from(header.length),
    };
    let acks = proto::Acks { acks: vec![ack] };
    client.transfer(1, transfer_message::Body::Acks(acks)).await;
}

/// What the server says of the file when it is not what was offered any more.
pub async fn changed(client: &mut ScriptedClient) -> proto::Changed {
    loop {
        if let Body::Transfer(message) = client.receive().await.expect("the server hung up")
            && let Some(transfer_message::Body::Changed(changed)) = message.body
        {
            return changed;
        }
    }
}
