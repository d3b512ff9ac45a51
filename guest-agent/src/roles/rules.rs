//! The table: which process stands for which service.

use stillpoint_common::ServiceRole::{self, ClusterMember, Database, DomainController, MailServer};

use super::Process;

/// A service is there if a process is one of `programs` and, where `says` is not empty, its command line holds one of
/// those texts.
pub(super) struct Rule {
    pub(super) service: &'static str,
    pub(super) role: ServiceRole,
    programs: &'static [&'static str],
    says: &'static [&'static str],
}

impl Rule {
    pub(super) fn is(&self, process: &Process) -> bool {
        let says = |text: &&str| process.command_line.contains(*text);
        self.programs.contains(&process.program.as_str()) && (self.says.is_empty() || self.says.iter().any(says))
    }
}

const fn program(service: &'static str, role: ServiceRole, programs: &'static [&'static str]) -> Rule {
    Rule { service, role, programs, says: &[] }
}

const fn saying(
    service: &'static str,
    role: ServiceRole,
    programs: &'static [&'static str],
    says: &'static [&'static str],
) -> Rule {
    Rule { service, role, programs, says }
}

pub(super) const RULES: &[Rule] = &[
    program("postgresql", Database, &["postgres", "postmaster"]),
    program("mysql", Database, &["mysqld"]),
    program("mariadb", Database, &["mariadbd"]),
    program("redis", Database, &["redis-server"]),
    program("valkey", Database, &["valkey-server"]),
    program("mongodb", Database, &["mongod"]),
    program("openldap", Database, &["slapd"]),
    program("clickhouse", Database, &["clickhouse-server"]),
    program("influxdb", Database, &["influxd"]),
    saying("rabbitmq", Database, &["beam.smp"], &["rabbit"]),
    saying("postfix", MailServer, &["master"], &["postfix"]),
    program("dovecot", MailServer, &["dovecot"]),
    program("exim", MailServer, &["exim", "exim4"]),
    program("opensmtpd", MailServer, &["smtpd"]),
    saying("postgresql replication", ClusterMember, &["postgres"], &[": walsender", ": walreceiver"]),
    saying("galera", ClusterMember, &["mysqld", "mariadbd"], &["--wsrep"]),
    program("galera", ClusterMember, &["garbd"]),
    saying("mongodb replica set", ClusterMember, &["mongod"], &["--replSet"]),
    program("mongodb replica set", ClusterMember, &["mongos"]),
    saying("redis cluster", ClusterMember, &["redis-server", "valkey-server"], &["[cluster]"]),
    program("redis cluster", ClusterMember, &["redis-sentinel", "valkey-sentinel"]),
    program("etcd", ClusterMember, &["etcd"]),
    saying("consul", ClusterMember, &["consul"], &[" agent"]),
    program("corosync", ClusterMember, &["corosync"]),
    program("pacemaker", ClusterMember, &["pacemakerd"]),
    program("kubernetes node", ClusterMember, &["kubelet", "k3s", "k3s-server", "k3s-agent", "rke2", "kubelite"]),
    program("ceph", ClusterMember, &["ceph-mon", "ceph-osd", "ceph-mds", "ceph-mgr"]),
    program("glusterfs", ClusterMember, &["glusterd", "glusterfsd"]),
    saying("kafka", ClusterMember, &["java"], &["kafka.Kafka"]),
    saying("cassandra", ClusterMember, &["java"], &["CassandraDaemon"]),
    saying("zookeeper", ClusterMember, &["java"], &["QuorumPeerMain"]),
    saying("elasticsearch", ClusterMember, &["java"], &["org.elasticsearch.", "org.opensearch."]),
    program("cockroachdb", ClusterMember, &["cockroach"]),
    program("tikv", ClusterMember, &["tikv-server"]),
    program("samba active directory", DomainController, &["samba"]),
    program("389 directory", DomainController, &["ns-slapd"]),
];
