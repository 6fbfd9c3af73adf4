use std::net::SocketAddr;

use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::issue::Pair;
use super::*;

const NEVER: i64 = 4_000_000_000;

fn authority(name: &str) -> Pair {
    Pair::authority(name, 0..NEVER).unwrap()
}

fn issued(ca: &Pair, host: &str, end: i64) -> Pair {
    ca.sign("member", &[host.to_owned()], 0..end).unwrap()
}

fn client(ca: &Pair, leaf: Option<&Pair>) -> ClientTls {
    let identity = leaf.map(|leaf| (leaf.certificate.as_bytes(), leaf.key.as_bytes()));
    ClientTls::from_pem(ca.certificate.as_bytes(), identity).unwrap()
}

/// Starts a server that sends one byte to each client with a certificate of `ca`.
async fn server(ca: &Pair, leaf: &Pair) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let trusted = Arc::new(roots(ca.certificate.as_bytes()).unwrap());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(trusted, Arc::clone(&provider)).build().unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            certificates(leaf.certificate.as_bytes()).unwrap(),
            private_key(leaf.key.as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                stream.write_all(b"!").await.unwrap();
                stream.flush().await.unwrap();
            }
        }
    });
    address
}

async fn greeted(address: SocketAddr, name: &str, tls: &ClientTls) -> Result<(), String> {
    let stream = TcpStream::connect(address).await.unwrap();
    tls.greet(stream, name).await.map(drop).map_err(|error| error.to_string())
}

#[tokio::test]
async fn failed_handshake_names_the_problem_with_the_certificate() {
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    let leaf = issued(&ours, "db.example", NEVER);
    let address = server(&ours, &leaf).await;
    assert_eq!(greeted(address, "db.example", &client(&ours, Some(&leaf))).await, Ok(()));
    let foreign = issued(&theirs, "db.example", NEVER);
    let expired = issued(&ours, "db.example", 1_000_000_000);
    let cases = [
        (client(&ours, None), "db.example", "it asks for a certificate, and none was shown"),
        (
            client(&ours, Some(&foreign)),
            "db.example",
            "it does not trust the CA of the certificate shown to it",
        ),
        (client(&ours, Some(&expired)), "db.example", "it says that the certificate shown to it has expired"),
        (client(&theirs, Some(&leaf)), "db.example", "its certificate is not signed by a trusted CA"),
        (client(&ours, Some(&leaf)), "other.example", "its certificate is not for other.example but for"),
    ];
    for (tls, name, expected) in cases {
        let error = greeted(address, name, &tls).await.unwrap_err();
        assert!(error.starts_with(expected), "{error} is not {expected}");
    }
}

#[tokio::test]
async fn failed_connect_names_its_cause() {
    let ours = authority("ours");
    let leaf = issued(&ours, "127.0.0.1", NEVER);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plaintext = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        }
    });
    let limit = Duration::from_secs(5);
    let address = plaintext.to_string();
    let tls = client(&ours, Some(&leaf));
    let error = connect(&address, host_of(&address), Some(&tls), limit, limit).await.unwrap_err();
    assert_eq!(error.0, "it does not speak TLS");
    let error = connect("no port", "x", None, limit, limit).await.unwrap_err();
    assert!(error.0.contains("host:port"), "{error}");
}

#[test]
fn several_roots_are_trusted_and_invalid_pem_is_rejected() {
    let (one, other) = (authority("one"), authority("other"));
    assert_eq!(roots(format!("{}{}", one.certificate, other.certificate).as_bytes()).unwrap().len(), 2);
    assert_eq!(roots(b"nothing").unwrap_err(), TlsError::NoCertificate);
    let leaf = issued(&one, "a", NEVER);
    assert_eq!(private_key(leaf.certificate.as_bytes()).unwrap_err(), TlsError::NoKey);
    let other_key = issued(&other, "a", NEVER).key;
    let mixed = ClientTls::from_pem(
        one.certificate.as_bytes(),
        Some((leaf.certificate.as_bytes(), other_key.as_bytes())),
    );
    assert!(matches!(mixed.unwrap_err(), TlsError::Unusable(_)));
    assert_eq!(not_after(leaf.certificate.as_bytes()).unwrap(), NEVER);
}

#[test]
fn host_of_strips_the_port() {
    for (address, host) in [
        ("demo-0.demo-peers:7000", "demo-0.demo-peers"),
        ("10.0.0.1:7000", "10.0.0.1"),
        ("[::1]:7000", "::1"),
    ] {
        assert_eq!(host_of(address), host);
    }
}

#[test]
fn names_of_returns_dns_names_and_addresses() {
    let ours = authority("ours");
    let hosts = ["*.demo-peers", "127.0.0.1", "::1", MANAGEMENT_NAME].map(str::to_owned);
    let leaf = ours.sign("x", &hosts, 0..NEVER).unwrap();
    let der = certificates(leaf.certificate.as_bytes()).unwrap();
    assert_eq!(names_of(&der[0]).unwrap(), hosts);
    assert!(names_of(b"nothing").is_err());
}
