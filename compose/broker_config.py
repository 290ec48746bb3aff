"""mosquitto.conf of a run, valid for Mosquitto 2.0 and 2.1. Every limit is explicit and says why it has that
number.
"""

from __future__ import annotations

KIB, MIB = 1024, 1024 * 1024

# A chunk carries at most 64 KiB and a header (coordinator.config), a control message at most 64 KiB
# (wire.messages).
MESSAGE_BYTES_MAX = 64 * KIB + 4 * KIB
PACKET_BYTES_MAX = MESSAGE_BYTES_MAX + 4 * KIB  # topic and properties on top
# Per client. The coordinator grants at most 32 MiB of updates at once, which has to be below half of what the
# broker may queue for it, so that the broker never has anything to drop in silence; messages likewise, in
# chunks of 1,000 bytes.
QUEUED_BYTES_MAX = 80 * MIB
QUEUED_MESSAGES_MAX = 80_000
# Unacknowledged QoS 1 messages to one client: 64 chunks are some MiB, enough to keep a journalling
# coordinator busy.
INFLIGHT_MESSAGES_MAX = 64
# Retained versions (8 live ones of a 7 MB model) and two full queues; above it clients are refused, not the
# host swapped.
MEMORY_BYTES_MAX = 384 * MIB
CONTAINER_MEMORY_BYTES = 512 * MIB
CONNECTIONS_MAX = 4096
SYS_INTERVAL_S = 5  # $SYS drop counters go into the record
SESSION_EXPIRY = "1h"  # of a client that never comes back; a run's round is minutes


def mosquitto_conf(folder: str, *, port: int, bind: str = "", user: str = "") -> str:
    """The broker's configuration.

    `folder` holds the files of `compose.credentials`; `bind` is the address to listen on, all by default;
    `user` is needed only where the broker is started as root, and then keeps it from becoming another user
    who may not read them.
    """
    lines = [
        "# Generated for one run by compose.broker_config.",
        *([f"user {user}"] if user else []),
        "persistence false",
        "set_tcp_nodelay true",
        f"max_inflight_messages {INFLIGHT_MESSAGES_MAX}",
        f"max_queued_messages {QUEUED_MESSAGES_MAX}",
        f"max_queued_bytes {QUEUED_BYTES_MAX}",
        f"message_size_limit {MESSAGE_BYTES_MAX}",
        f"max_packet_size {PACKET_BYTES_MAX}",
        f"memory_limit {MEMORY_BYTES_MAX}",
        f"persistent_client_expiration {SESSION_EXPIRY}",
        "queue_qos0_messages false",
        f"sys_interval {SYS_INTERVAL_S}",
        "",
        # On stdout it would wait in a buffer of 4 kB, and die there with a broker that is killed.
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type notice",
        "log_type information",
        "log_timestamp true",
        "connection_messages true",
        "",
        "allow_anonymous false",
        f"password_file {folder}/passwd",
        f"acl_file {folder}/acl",
        "",
        f"listener {port}{f' {bind}' if bind else ''}",
        "protocol mqtt",
        f"max_connections {CONNECTIONS_MAX}",
        # With ACLs alone a client that connects under another's id takes over its session.
        "use_username_as_clientid true",
        f"cafile {folder}/ca.crt",
        f"certfile {folder}/server.crt",
        f"keyfile {folder}/server.key",
        "tls_version tlsv1.2",
        "require_certificate false",
    ]
    return "\n".join(lines) + "\n"
