//! TLS and mutual TLS of a port, from files that are read again when they change: connections that
//! stand keep what they began with. The handshake is made by whoever first reads the connection, so
//! that a slow caller holds up nobody who connects after it.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};
use tokio_rustls::{
    Accept, TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring::default_provider,
        pki_types::{PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
    server::TlsStream,
};
use tonic::transport::server::Connected;

use crate::{
    caller::{certificates, roots},
    files::FromFiles,
};

/// A caller who does not finish the handshake by then is closed.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The certificate of a port, its key, and who signs callers' certificates.
#[derive(Debug)]
pub struct ServerTls(FromFiles<Arc<ServerConfig>>);

impl ServerTls {
    /// Reads the files, all PEM. `protocols` are spoken over it (ALPN).
    ///
    /// # Errors
    /// What cannot be used, for a person to read.
    pub fn open(
        certificate: &Path,
        key: &Path,
        client_ca: Option<&Path>,
        protocols: &'static [&'static [u8]],
    ) -> Result<Self, String> {
        let paths: Vec<PathBuf> = [Some(certificate), Some(key), client_ca]
            .into_iter()
            .flatten()
            .map(Path::to_path_buf)
            .collect();
        FromFiles::open(paths, move |contents| {
            config(contents, protocols).map(Arc::new)
        })
        .map(Self)
    }

    /// Makes the handshake with what the files say now. Whoever calls sets a limit to it.
    ///
    /// # Errors
    /// The caller's handshake is not accepted, or the connection broke.
    pub async fn handshake(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let acceptor = TlsAcceptor::from((*self.0.current()).clone());
        acceptor.accept(stream).await
    }

    /// Begins a connection with what the files say now.
    pub fn accept(&self, stream: TcpStream) -> Accepted {
        let acceptor = TlsAcceptor::from((*self.0.current()).clone());
        Accepted {
            peer: Peer::of(&stream),
            stream: Stream::Shaking(Box::new((
                acceptor.accept(stream),
                Box::pin(sleep(HANDSHAKE_TIMEOUT)),
            ))),
        }
    }
}

fn config(contents: &[Vec<u8>], protocols: &[&[u8]]) -> Result<ServerConfig, String> {
    let chain = certificates(&contents[0], "the certificate")?;
    let key = private_key(&contents[1])?;
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match contents.get(2) {
        None => builder.with_no_client_auth(),
        Some(authorities) => {
            let roots = roots(authorities)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| format!("callers' authorities cannot be used: {error}"))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| format!("certificate and key do not fit together: {error}"))?;
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| "the key is no PEM private key".to_owned())
}

/// Who is at the other end, as far as the connection says. Among each request's extensions.
#[derive(Debug, Clone)]
pub struct Peer {
    address: Option<SocketAddr>,
    certified: Arc<OnceLock<()>>,
}

impl Peer {
    fn of(stream: &TcpStream) -> Self {
        Self {
            address: stream.peer_addr().ok(),
            certified: Arc::default(),
        }
    }

    /// Where the caller is.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Whether the caller showed a certificate that one of the authorities signed.
    pub fn has_certificate(&self) -> bool {
        self.certified.get().is_some()
    }
}

/// An accepted connection, with or without TLS.
#[derive(Debug)]
pub struct Accepted {
    stream: Stream,
    peer: Peer,
}

enum Stream {
    Plain(TcpStream),
    Shaking(Box<(Accept<TcpStream>, Pin<Box<Sleep>>)>),
    Tls(Box<TlsStream<TcpStream>>),
    Failed,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Shaking(_) => "Shaking",
            Self::Tls(_) => "Tls",
            Self::Failed => "Failed",
        })
    }
}

impl Accepted {
    /// A connection without TLS.
    pub fn plain(stream: TcpStream) -> Self {
        Self {
            peer: Peer::of(&stream),
            stream: Stream::Plain(stream),
        }
    }

    /// By TLS where there is one.
    pub fn by(tls: Option<&ServerTls>, stream: TcpStream) -> Self {
        match tls {
            Some(tls) => tls.accept(stream),
            None => Self::plain(stream),
        }
    }

    fn poll_shaken(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Stream::Shaking(shaking) = &mut self.stream else {
            return Poll::Ready(match self.stream {
                Stream::Failed => Err(io::ErrorKind::ConnectionAborted.into()),
                _ => Ok(()),
            });
        };
        let (accept, late) = &mut **shaking;
        let shaken = match Pin::new(accept).poll(context) {
            Poll::Ready(shaken) => shaken,
            Poll::Pending => {
                ready!(late.as_mut().poll(context));
                Err(io::ErrorKind::TimedOut.into())
            }
        };
        match shaken {
            Ok(stream) => {
                let (_, session) = stream.get_ref();
                if session.peer_certificates().is_some() {
                    let _ = self.peer.certified.set(());
                }
                self.stream = Stream::Tls(Box::new(stream));
                Poll::Ready(Ok(()))
            }
            Err(error) => {
                tracing::debug!(%error, "a TLS handshake failed");
                self.stream = Stream::Failed;
                Poll::Ready(Err(error))
            }
        }
    }
}

impl Connected for Accepted {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_shaken(context))?;
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(&mut **stream).poll_read(context, buffer),
            Stream::Shaking(_) | Stream::Failed => unreachable!("the handshake has ended"),
        }
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_shaken(context))?;
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, buffer),
            Stream::Tls(stream) => Pin::new(&mut **stream).poll_write(context, buffer),
            Stream::Shaking(_) | Stream::Failed => unreachable!("the handshake has ended"),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_shaken(context))?;
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(context, buffers),
            Stream::Tls(stream) => Pin::new(&mut **stream).poll_write_vectored(context, buffers),
            Stream::Shaking(_) | Stream::Failed => unreachable!("the handshake has ended"),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
            // Both kinds of streams that it can become are.
            Stream::Shaking(_) => true,
            Stream::Failed => false,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(&mut **stream).poll_flush(context),
            // Nothing was written yet.
            Stream::Shaking(_) | Stream::Failed => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(context),
            // Dropping the socket ends it.
            Stream::Shaking(_) | Stream::Failed => Poll::Ready(Ok(())),
        }
    }
}
