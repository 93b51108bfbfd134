//! What each key becomes, and what it is without one.

use super::*;

#[test]
fn every_default_is_as_documented() {
    let config = Config::default();
    assert_eq!(config.engine, EngineChoice::Auto);
    assert_eq!(config.workers, Workers::Auto);
    assert_eq!(config.pin, None);
    assert_eq!(config.spin, Duration::ZERO);
    assert!(config.sockets.is_empty());
    let limits = Limits {
        frame_bytes: 16 * 1024 * 1024,
        depth: 128,
        outbox_bytes: 8 * 1024 * 1024,
        promises: 4096,
        connections: 10_000,
        memory: 1024 * 1024 * 1024,
        idle_timeout: Duration::ZERO,
        frame_timeout: Duration::from_secs(30),
        reply_timeout: Duration::from_secs(300),
        promise_timeout: Duration::ZERO,
        write_timeout: Duration::from_secs(30),
    };
    assert_eq!(config.limits, limits);
    assert_eq!(
        config.handover,
        Handover {
            drain: Duration::from_secs(5)
        }
    );
    let ring = RingConfig {
        entries: 4096,
        buffers: 64,
        buffer_bytes: 64 * 1024,
    };
    assert_eq!(config.ring, ring);

    let socket = SocketConfig {
        service: "rpc".to_owned(),
        enable: true,
        listen: vec![],
        workers: Partition::All,
        connections: 0,
        connections_per_client: 0,
        frame_bytes: None,
        outbox_bytes: None,
        promises: None,
        idle_timeout: None,
        frame_timeout: None,
        write_timeout: None,
        reply_timeout: None,
        promise_timeout: None,
        proxy_protocol: false,
        fd_name: None,
        backlog: 4096,
        mode: 0o660,
        user: None,
        group: None,
        nodelay: true,
        keepalive: Duration::from_secs(300),
        keepalive_interval: None,
        keepalive_probes: None,
        reuse_port: false,
        ipv6_only: None,
        congestion: None,
        receive_buffer: None,
        send_buffer: None,
    };
    assert_eq!(parse("[sockets.rpc]").sockets["rpc"], socket);
    assert_eq!(SocketConfig::new("rpc"), socket);
}

#[test]
fn every_key_is_read() {
    let config = parse(
        r#"
        engine  = "portable"
        workers = 4
        spin    = "50us"
        [limits]
        frame_bytes   = "1MiB"
        depth         = 7
        outbox_bytes  = "8KiB"
        promises      = 16
        connections   = 20
        memory        = "2GiB"
        idle_timeout  = "1h"
        frame_timeout = "250ms"
        reply_timeout = "2min"
        promise_timeout = "1min"
        write_timeout = "2min"
        [handover]
        drain = "1s"
        [ring]
        entries = 256
        buffers = 128
        buffer_bytes = "32KiB"
        [sockets.log]
        service = "forward"
        enable  = false
        listen  = ["127.0.0.1:0", "[::1]:4660", "unix:/run/x/log.sock", "unix:@log"]
        workers = [3, 0]
        connections = 12
        connections_per_client = 3
        frame_bytes = "64KiB"
        outbox_bytes = "2MiB"
        promises = 8
        idle_timeout = "10min"
        frame_timeout = "100ms"
        write_timeout = "200ms"
        reply_timeout = "300ms"
        promise_timeout = "400ms"
        proxy_protocol = true
        fd_name = "ringhold-log.socket"
        backlog = 12
        mode = "0600"
        user = "nobody"
        group = 12
        nodelay = false
        keepalive = "2h"
        keepalive_interval = "30s"
        keepalive_probes = 3
        reuse_port = true
        ipv6_only = true
        congestion = "cubic"
        receive_buffer = "2MiB"
        send_buffer = 65536
        "#,
    );
    assert_eq!(config.engine, EngineChoice::Portable);
    assert_eq!(config.workers, Workers::Count(4));
    assert_eq!(config.spin, Duration::from_micros(50));
    let limits = Limits {
        frame_bytes: 1 << 20,
        depth: 7,
        outbox_bytes: 8 << 10,
        promises: 16,
        connections: 20,
        memory: 2 << 30,
        idle_timeout: Duration::from_secs(3600),
        frame_timeout: Duration::from_millis(250),
        reply_timeout: Duration::from_secs(120),
        promise_timeout: Duration::from_secs(60),
        write_timeout: Duration::from_secs(120),
    };
    assert_eq!(config.limits, limits);
    assert_eq!(config.handover.drain, Duration::from_secs(1));
    assert_eq!(
        config.ring,
        RingConfig {
            entries: 256,
            buffers: 128,
            buffer_bytes: 32 << 10
        }
    );
    let socket = SocketConfig {
        service: "forward".to_owned(),
        enable: false,
        listen: vec![
            ListenAddress::Tcp("127.0.0.1:0".parse().unwrap()),
            ListenAddress::Tcp("[::1]:4660".parse().unwrap()),
            ListenAddress::UnixPath(PathBuf::from("/run/x/log.sock")),
            ListenAddress::UnixAbstract("log".to_owned()),
        ],
        workers: Partition::Only(vec![3, 0]),
        connections: 12,
        connections_per_client: 3,
        frame_bytes: Some(64 << 10),
        outbox_bytes: Some(2 << 20),
        promises: Some(8),
        idle_timeout: Some(Duration::from_secs(600)),
        frame_timeout: Some(Duration::from_millis(100)),
        write_timeout: Some(Duration::from_millis(200)),
        reply_timeout: Some(Duration::from_millis(300)),
        promise_timeout: Some(Duration::from_millis(400)),
        proxy_protocol: true,
        fd_name: Some("ringhold-log.socket".to_owned()),
        backlog: 12,
        mode: 0o600,
        user: Some(Id::Name("nobody".to_owned())),
        group: Some(Id::Number(12)),
        nodelay: false,
        keepalive: Duration::from_secs(7200),
        keepalive_interval: Some(Duration::from_secs(30)),
        keepalive_probes: Some(3),
        reuse_port: true,
        ipv6_only: Some(true),
        congestion: Some("cubic".to_owned()),
        receive_buffer: Some(2 << 20),
        send_buffer: Some(64 << 10),
    };
    assert_eq!(config.sockets["log"], socket);
    assert_eq!(socket.descriptor_name("log"), "ringhold-log.socket");
    assert_eq!(SocketConfig::new("x").descriptor_name("log"), "log");
}
