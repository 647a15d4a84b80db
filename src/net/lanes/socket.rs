//! What TLS runs over: a TCP connection, or a lane of a carrier.

use crate::net::lanes::lane::Lane;
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection below TLS.
pub enum Socket {
    /// Over TCP.
    Tcp(TcpStream),
    /// Within a carrier.
    Lane(Lane),
}

impl Socket {
    /// Waits until there is something to read, or the connection has ended.
    ///
    /// # Errors
    /// That of the system.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Socket::Tcp(tcp) => tcp.readable().await,
            Socket::Lane(lane) => {
                std::future::poll_fn(|cx| lane.poll_readable(cx)).await;
                Ok(())
            }
        }
    }

    /// Waits until the connection would take more bytes, or has ended.
    ///
    /// # Errors
    /// That of the system.
    pub async fn writable(&self) -> io::Result<()> {
        match self {
            Socket::Tcp(tcp) => tcp.writable().await,
            Socket::Lane(lane) => {
                std::future::poll_fn(|cx| lane.poll_writable(cx)).await;
                Ok(())
            }
        }
    }

    /// Reads what is there; 0 at the end.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if nothing is there, and that of the system.
    pub fn try_read_vectored(&self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match self {
            Socket::Tcp(tcp) => tcp.try_read_vectored(buffers),
            Socket::Lane(lane) => lane.try_read(buffers),
        }
    }

    /// Writes as many of these bytes as the connection takes.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if it takes none, and that of the system.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(tcp) => tcp.try_write(bytes),
            Socket::Lane(lane) => lane.try_write(bytes),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Socket::Lane(lane) => Pin::new(lane).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Socket::Lane(lane) => Pin::new(lane).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Socket::Lane(lane) => Pin::new(lane).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self, Socket::Tcp(_))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Socket::Lane(lane) => Pin::new(lane).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Socket::Lane(lane) => Pin::new(lane).poll_shutdown(cx),
        }
    }
}
