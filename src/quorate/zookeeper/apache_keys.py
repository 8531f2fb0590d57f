"""What Apache ZooKeeper can be told in zoo.cfg and a Quorate member does not do.

Apache turns every key it does not know itself into the Java property ``zookeeper.<key>``, so the list is the union of
QuorumPeerConfig.parseProperties and of every property that its server reads (3.8, 3.9 and master). A key is listed
without the prefix; both spellings are accepted.

``WARN`` keys tune or add something that a member can do without: it starts, and says what happens instead. ``REFUSE``
keys protect something: to start without that protection, silently, would be unsafe, so the member does not start.
"""

from typing import Literal, NamedTuple

WARN: Literal["warn"] = "warn"
REFUSE: Literal["refuse"] = "refuse"

TLS = "TLS is not supported yet, and this member would serve in plain text"
SASL = "SASL is not supported yet, and this member would serve without it"
QUORUM_RULE = "only plain majorities are supported, and another quorum rule than its peers' could split the ensemble"

JVM = "there is no Java virtual machine to watch"
ONE_THREAD = "one event loop serves all connections"
NO_CACHE = "replies are not cached"
NO_THROTTLE = "connections are bounded by maxClientCnxns, requests by globalOutstandingLimit"
WATCHES = "there is one watch manager, which needs no cleaner"
NO_STATS = "these statistics are not collected"
NODELAY = "TCP_NODELAY is always set"
TEST_ONLY = "it serves Apache's own tests"


class Undone(NamedTuple):
    """``action`` is WARN or REFUSE unless the value is one of ``harmless`` (lower case): what a member does anyway."""

    action: Literal["warn", "refuse"]
    instead: str
    harmless: tuple[str, ...] = ()


OFF = ("false",)
ON = ("true",)

UNDONE: dict[str, Undone] = {
    # transport security
    "secureClientPort": Undone(REFUSE, TLS),
    "secureClientPortAddress": Undone(REFUSE, TLS),
    "sslQuorum": Undone(REFUSE, TLS, OFF),
    "sslQuorumReloadCertFiles": Undone(REFUSE, TLS, OFF),
    "portUnification": Undone(REFUSE, TLS, OFF),
    "client.portUnification": Undone(REFUSE, TLS, OFF),
    "client.certReload": Undone(REFUSE, TLS, OFF),
    "fips-mode": Undone(REFUSE, TLS, OFF),
    "admin.forceHttps": Undone(REFUSE, TLS, OFF),
    "admin.needClientAuth": Undone(REFUSE, TLS, OFF),
    "admin.portUnification": Undone(REFUSE, TLS, OFF),
    "X509AuthenticationProvider.superUser": Undone(REFUSE, TLS),
    # authentication
    "quorum.auth.enableSasl": Undone(REFUSE, SASL, OFF),
    "quorum.auth.serverRequireSasl": Undone(REFUSE, SASL, OFF),
    "quorum.auth.learnerRequireSasl": Undone(REFUSE, SASL, OFF),
    "quorum.auth.server.saslLoginContext": Undone(REFUSE, SASL),
    "quorum.auth.learner.saslLoginContext": Undone(REFUSE, SASL),
    "quorum.auth.kerberos.servicePrincipal": Undone(REFUSE, SASL),
    "sessionRequireClientSASLAuth": Undone(REFUSE, SASL, OFF),
    "enforce.auth.enabled": Undone(REFUSE, "clients without authentication would be let in", OFF),
    "enforce.auth.schemes": Undone(REFUSE, "clients without authentication would be let in"),
    "ensembleAuthName": Undone(REFUSE, "clients that name another ensemble would be let in"),
    "sasl.serverconfig": Undone(REFUSE, SASL),
    "java.security.auth.login.config": Undone(REFUSE, SASL),
    "superUser": Undone(REFUSE, SASL),
    "SASLAuthenticationProvider.superPassword": Undone(REFUSE, SASL),
    "letAnySaslUserDoX": Undone(REFUSE, SASL),
    "requireKerberosConfig": Undone(REFUSE, SASL, OFF),
    "security.auth_to_local": Undone(REFUSE, SASL),
    "server.principal": Undone(REFUSE, SASL),
    "server.realm": Undone(REFUSE, SASL),
    "kerberos.removeHostFromPrincipal": Undone(REFUSE, SASL, OFF),
    "kerberos.removeRealmFromPrincipal": Undone(REFUSE, SASL, OFF),
    "kerberos.canonicalizeHostNames": Undone(REFUSE, SASL, OFF),
    "kinit": Undone(REFUSE, SASL),
    "allowSaslFailedClients": Undone(WARN, "there is no SASL, so none fails", OFF),
    "DigestAuthenticationProvider.enabled": Undone(REFUSE, "the digest scheme cannot be switched off", ON),
    "DigestAuthenticationProvider.digestAlg": Undone(
        REFUSE, "digests are SHA1, and other digests would match no access list", ("sha1", "sha-1")
    ),
    "IPAuthenticationProvider.usexforwardedfor": Undone(
        REFUSE, "the ip scheme sees the address of the connection, which would be the proxy's", OFF
    ),
    "audit.enable": Undone(REFUSE, "there is no audit log yet", OFF),
    "audit.impl.class": Undone(WARN, "there is no audit log yet"),
    # the ensemble
    "oraclePath": Undone(REFUSE, QUORUM_RULE),
    "multiAddress.enabled": Undone(REFUSE, "a member has one address", OFF),
    "multiAddress.reachabilityCheckEnabled": Undone(WARN, "a member has one address", OFF),
    "multiAddress.reachabilityCheckTimeoutMs": Undone(WARN, "a member has one address"),
    "reconfigEnabled": Undone(WARN, "reconfig is refused; the member list of this file holds", OFF),
    "observerMasterPort": Undone(WARN, "observers connect to the leader; the port is not opened", ("0",)),
    "observerMaster.sizeLimit": Undone(WARN, "observers connect to the leader"),
    "localSessionsEnabled": Undone(WARN, "every session is global", OFF),
    "localSessionsUpgradingEnabled": Undone(WARN, "every session is global", OFF),
    "readonlymode.enabled": Undone(WARN, "a member without a quorum serves nobody", OFF),
    "syncEnabled": Undone(WARN, "observers always write their log and snapshots", ON),
    "observer.syncEnabled": Undone(WARN, "observers always write their log and snapshots", ON),
    "observer.reconnectDelayMs": Undone(WARN, "a learner that finds no leader tries again after 20 to 500 ms", ("0",)),
    "observer.election.DelayMs": Undone(WARN, "observers look for the leader at once"),
    "cnxTimeout": Undone(WARN, "an election connection that takes 5000 ms is given up", ("5000",)),
    "quorumCnxnTimeoutMs": Undone(WARN, "TCP reports dead election connections", ("-1",)),
    "electionPortBindRetry": Undone(WARN, "a taken port ends the start"),
    "tcpKeepAlive": Undone(WARN, "the protocol's own pings find dead peers", OFF),
    "clientTcpKeepAlive": Undone(WARN, "session timeouts find dead clients", OFF),
    "quorum.cnxn.threads.size": Undone(WARN, ONE_THREAD),
    "fastleader.minNotificationInterval": Undone(WARN, "the election's own intervals are used"),
    "fastleader.maxNotificationInterval": Undone(WARN, "the election's own intervals are used"),
    "leaderConnectDelayDuringRetryMs": Undone(WARN, "a learner that finds no leader tries again after 20 to 500 ms"),
    "leader.maxTimeToWaitForEpoch": Undone(WARN, "a leader waits initLimit ticks for a quorum", ("-1",)),
    "leader.maxConcurrentSnapSyncs": Undone(WARN, "learners are synchronised as they come"),
    "leader.maxConcurrentDiffSyncs": Undone(WARN, "learners are synchronised as they come"),
    "leader.ackLoggingFrequency": Undone(WARN, "acknowledgements are not logged"),
    "leader.closeSocketAsync": Undone(WARN, "closing never blocks"),
    "learner.closeSocketAsync": Undone(WARN, "closing never blocks"),
    "learner.asyncSending": Undone(WARN, "sending never blocks"),
    "leader.nodelay": Undone(WARN, NODELAY, ON),
    "follower.nodelay": Undone(WARN, NODELAY, ON),
    "follower.skipLearnerRequestToNextProcessor": Undone(WARN, "requests have one way through a member", OFF),
    "forward_learner_requests_to_commit_processor_disabled": Undone(
        WARN, "requests have one way through a member", OFF
    ),
    "forceSnapshotSync": Undone(WARN, "a learner gets what it misses, as a difference where that is possible", OFF),
    "snapshotSizeFactor": Undone(WARN, "learners outside commitLogCount get a snapshot"),
    # requests and connections
    "maxCnxns": Undone(WARN, "connections are bounded per address by maxClientCnxns", ("0",)),
    "enableEagerACLCheck": Undone(WARN, "access lists of writes are checked by the leader", OFF),
    "flushDelay": Undone(WARN, "whatever queued up during a sync goes into the next one", ("0",)),
    "maxWriteQueuePollTime": Undone(WARN, "whatever queued up during a sync goes into the next one"),
    "maxBatchSize": Undone(WARN, "whatever queued up during a sync goes into the next one"),
    "largeRequestMaxBytes": Undone(WARN, NO_THROTTLE),
    "largeRequestThreshold": Undone(WARN, NO_THROTTLE, ("-1",)),
    "request_throttle_max_requests": Undone(WARN, NO_THROTTLE, ("0",)),
    "request_throttle_stall_time": Undone(WARN, NO_THROTTLE),
    "request_throttle_drop_stale": Undone(WARN, NO_THROTTLE),
    "request_throttler.shutdownTimeout": Undone(WARN, NO_THROTTLE),
    "request_stale_latency_check": Undone(WARN, NO_THROTTLE, OFF),
    "request_stale_connection_check": Undone(
        WARN, "a request that has arrived is carried out, whether or not its connection still stands", OFF
    ),
    "throttled_op_wait_time": Undone(WARN, "no request is failed for having waited", ("0",)),
    "connection_throttle_tokens": Undone(WARN, NO_THROTTLE, ("0",)),
    "connection_throttle_fill_time": Undone(WARN, NO_THROTTLE),
    "connection_throttle_fill_count": Undone(WARN, NO_THROTTLE),
    "connection_throttle_freeze_time": Undone(WARN, NO_THROTTLE),
    "connection_throttle_drop_increase": Undone(WARN, NO_THROTTLE),
    "connection_throttle_drop_decrease": Undone(WARN, NO_THROTTLE),
    "connection_throttle_decrease_ratio": Undone(WARN, NO_THROTTLE),
    "connection_throttle_weight_enabled": Undone(WARN, NO_THROTTLE, OFF),
    "connection_throttle_global_session_weight": Undone(WARN, NO_THROTTLE),
    "connection_throttle_local_session_weight": Undone(WARN, NO_THROTTLE),
    "connection_throttle_renew_session_weight": Undone(WARN, NO_THROTTLE),
    "serverCnxnFactory": Undone(WARN, ONE_THREAD),
    "nio.numSelectorThreads": Undone(WARN, ONE_THREAD),
    "nio.numWorkerThreads": Undone(WARN, ONE_THREAD),
    "nio.directBufferBytes": Undone(WARN, ONE_THREAD),
    "nio.shutdownTimeout": Undone(WARN, ONE_THREAD),
    "nio.sessionlessCnxnTimeout": Undone(
        WARN, "a connection that opens no session is closed after 10000 ms", ("10000",)
    ),
    "netty.advancedFlowControl.enabled": Undone(WARN, ONE_THREAD, OFF),
    "netty.server.outstandingHandshake.limit": Undone(WARN, ONE_THREAD),
    "netty.server.earlyDropSecureConnectionHandshakes": Undone(WARN, ONE_THREAD, OFF),
    "commitProcessor.numWorkerThreads": Undone(WARN, ONE_THREAD),
    "commitProcessor.maxReadBatchSize": Undone(WARN, ONE_THREAD),
    "commitProcessor.maxCommitBatchSize": Undone(WARN, ONE_THREAD),
    "commitProcessor.shutdownTimeout": Undone(WARN, ONE_THREAD),
    "intBufferStartingSizeBytes": Undone(WARN, "buffers grow as needed"),
    "maxResponseCacheSize": Undone(WARN, NO_CACHE, ("0", "-1")),
    "maxGetChildrenResponseCacheSize": Undone(WARN, NO_CACHE, ("0", "-1")),
    # watches
    "watchManagerName": Undone(WARN, WATCHES),
    "watcherCleanThreadsNum": Undone(WARN, WATCHES),
    "watcherCleanThreshold": Undone(WARN, WATCHES),
    "watcherCleanIntervalInSeconds": Undone(WARN, WATCHES),
    "maxInProcessingDeadWatchers": Undone(WARN, WATCHES),
    "bitHashCacheSize": Undone(WARN, WATCHES),
    # tree and storage
    "closeSessionTxn.enabled": Undone(WARN, "closing a session always names its ephemerals", ON),
    "emulate353TTLNodes": Undone(WARN, "TTL nodes of 3.5.3 are read as ephemerals", OFF),
    "znode.container.maxPerMinute": Undone(WARN, "empty containers are removed as they are found"),
    "znode.container.maxNeverUsedIntervalMs": Undone(WARN, "containers that never had a child stay", ("0",)),
    "snapshot.compression.method": Undone(WARN, "snapshots are written uncompressed", ("",)),
    "snapshot.trust.empty": Undone(
        WARN, "a log without a snapshot ends the start, as it does in Apache without this key", OFF
    ),
    "serializeLastProcessedZxid.enabled": Undone(WARN, "snapshots are written as 3.8 writes them", OFF),
    "txnLogSizeLimitInKb": Undone(WARN, "a log file ends with a snapshot (snapCount, snapSizeLimitInKb)", ("-1",)),
    "db.autocreate": Undone(REFUSE, "a member with an empty data folder would vote as if it had lost nothing", ON),
    "datadir.autocreate": Undone(WARN, "missing data folders are made", ON),
    # observation
    "admin.httpVersion": Undone(WARN, "the admin server speaks HTTP/1.1", ("11",)),
    "admin.rateLimiterIntervalInMS": Undone(WARN, "the admin server takes and restores no snapshots"),
    "admin.snapshot.enabled": Undone(WARN, "the admin server takes no snapshots", OFF),
    "admin.restore.enabled": Undone(WARN, "the admin server restores no snapshots", OFF),
    "jvm.pause.monitor": Undone(WARN, JVM, OFF),
    "jvm.pause.sleep.time.ms": Undone(WARN, JVM),
    "jvm.pause.warn-threshold.ms": Undone(WARN, JVM),
    "jvm.pause.info-threshold.ms": Undone(WARN, JVM),
    "jmx.log4j.disable": Undone(WARN, JVM),
    "jmx.log4j.mbean": Undone(WARN, JVM),
    "messageTracker.BufferSize": Undone(WARN, NO_STATS),
    "messageTracker.Enabled": Undone(WARN, NO_STATS, OFF),
    "pathStats.enabled": Undone(WARN, NO_STATS, OFF),
    "pathStats.delay": Undone(WARN, NO_STATS),
    "pathStats.initialDelay": Undone(WARN, NO_STATS),
    "pathStats.maxDepth": Undone(WARN, NO_STATS),
    "pathStats.sampleRate": Undone(WARN, NO_STATS),
    "pathStats.slotCapacity": Undone(WARN, NO_STATS),
    "pathStats.slotDuration": Undone(WARN, NO_STATS),
    "pathStats.topPathMax": Undone(WARN, NO_STATS),
    "controllerPort": Undone(WARN, TEST_ONLY),
    "testingonly.initialZxid": Undone(WARN, TEST_ONLY),
    "test.allowDiscontinuousProposals": Undone(WARN, TEST_ONLY, OFF),
}

UNDONE_PREFIXES: dict[str, Undone] = {
    "authProvider.": Undone(REFUSE, "only the built-in schemes world, auth, digest, ip and super are supported"),
    "ssl.": Undone(REFUSE, TLS),
    "group.": Undone(REFUSE, QUORUM_RULE),
    "weight.": Undone(REFUSE, QUORUM_RULE),
    "metricsProvider.https": Undone(REFUSE, TLS),
    "metricsProvider.ssl.": Undone(REFUSE, TLS),
    "metricsProvider.": Undone(WARN, "metrics are served over HTTP, at httpHost and httpPort"),
}
"""Families of keys: whatever starts so. The first that fits counts."""


def undone(key: str) -> Undone | None:
    """What becomes of ``key``, or None if Apache does not know it or a member does it."""
    found = UNDONE.get(key)
    if found is None:
        for prefix, family in UNDONE_PREFIXES.items():
            if key.startswith(prefix):
                return family
    return found
