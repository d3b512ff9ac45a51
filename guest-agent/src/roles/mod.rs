//! What a guest is used for, as far as its processes show it.
//!
//! Databases, mail servers and members of clusters: what decides which kind of checkpoint fits, and what could happen
//! after one is applied. Nothing here asks a service anything; [`observe`] is a table over names and command lines.
//! A process can call itself what it likes: what is said here is advice, and nothing is held or let go because of it.

mod processes;
mod rules;

pub use processes::{Process, running};

use stillpoint_common::ObservedService;

/// What the guest's processes show now. A guest whose `/proc` cannot be read shows nothing.
#[must_use]
pub fn observed() -> Vec<ObservedService> {
    observe(&running())
}

/// The services that these processes are, each once, in the order of the table.
#[must_use]
pub fn observe(processes: &[Process]) -> Vec<ObservedService> {
    let mut found: Vec<ObservedService> = Vec::new();
    for rule in rules::RULES {
        let known = |service: &ObservedService| service.name == rule.service && service.role == rule.role;
        if let Some(process) = processes.iter().find(|process| rule.is(process))
            && !found.iter().any(known)
        {
            let (name, evidence) = (rule.service.to_owned(), process.shown());
            found.push(ObservedService { name, role: rule.role, evidence });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use stillpoint_common::ServiceRole::{self, ClusterMember, Database, DomainController, MailServer};

    use super::*;

    fn seen(command_lines: &[&str]) -> Vec<(String, ServiceRole)> {
        let processes: Vec<_> = command_lines.iter().map(|line| Process::of_command_line(line)).collect();
        observe(&processes).into_iter().map(|service| (service.name, service.role)).collect()
    }

    #[test]
    fn a_service_is_known_by_its_process() {
        let cases: &[(&str, &str, ServiceRole)] = &[
            ("/usr/lib/postgresql/15/bin/postgres -D /var/lib/postgresql", "postgresql", Database),
            ("postgres: checkpointer", "postgresql", Database),
            ("/usr/sbin/mysqld --basedir=/usr", "mysql", Database),
            ("/usr/sbin/mariadbd", "mariadb", Database),
            ("/usr/bin/redis-server 127.0.0.1:6379", "redis", Database),
            ("/usr/bin/valkey-server *:6379", "valkey", Database),
            ("/usr/bin/mongod --config /etc/mongod.conf", "mongodb", Database),
            ("/usr/sbin/slapd -h ldap:///", "openldap", Database),
            ("/usr/lib/postfix/sbin/master -w", "postfix", MailServer),
            ("/usr/sbin/dovecot -F", "dovecot", MailServer),
            ("/usr/sbin/exim4 -bd -q30m", "exim", MailServer),
            ("/usr/bin/etcd --name one", "etcd", ClusterMember),
            ("/usr/sbin/corosync -f", "corosync", ClusterMember),
            ("/usr/sbin/pacemakerd", "pacemaker", ClusterMember),
            ("/usr/bin/kubelet --config=/x", "kubernetes node", ClusterMember),
            ("/usr/local/bin/k3s agent", "kubernetes node", ClusterMember),
            ("/usr/bin/ceph-osd -f --id 0", "ceph", ClusterMember),
            ("/usr/sbin/glusterd -p /x", "glusterfs", ClusterMember),
            ("/usr/bin/java -Xmx1g kafka.Kafka /etc/kafka/server.properties", "kafka", ClusterMember),
            ("java org.apache.cassandra.service.CassandraDaemon", "cassandra", ClusterMember),
            ("java x org.apache.zookeeper.server.quorum.QuorumPeerMain", "zookeeper", ClusterMember),
            ("/usr/sbin/samba --foreground", "samba active directory", DomainController),
            ("samba: root process", "samba active directory", DomainController),
            ("/usr/sbin/ns-slapd -D /etc/dirsrv/x", "389 directory", DomainController),
        ];
        for (line, name, role) in cases {
            assert_eq!(seen(&[line]), [((*name).to_owned(), *role)], "{line}");
        }
    }

    #[test]
    fn a_database_that_replicates_is_a_member_of_a_cluster_too() {
        let cases: &[(&[&str], &str, &str)] = &[
            (
                &["postgres -D /x", "postgres: walsender repl 10.0.0.2(1234) streaming"],
                "postgresql",
                "postgresql replication",
            ),
            (&["postgres -D /x", "postgres: walreceiver streaming 0/3000"], "postgresql", "postgresql replication"),
            (&["mysqld --wsrep_on=ON --wsrep_provider=/usr/lib/galera/libgalera_smm.so"], "mysql", "galera"),
            (&["/usr/sbin/mariadbd --wsrep_start_position=0:1"], "mariadb", "galera"),
            (&["mongod --replSet rs0"], "mongodb", "mongodb replica set"),
            (&["redis-server *:6379 [cluster]"], "redis", "redis cluster"),
        ];
        for (lines, database, cluster) in cases {
            let expected = [((*database).to_owned(), Database), ((*cluster).to_owned(), ClusterMember)];
            let mut found = seen(lines);
            found.sort_by_key(|(_, role)| *role == ClusterMember);
            assert_eq!(found, expected, "{lines:?}");
        }
    }

    #[test]
    fn ordinary_processes_show_nothing() {
        let lines = [
            "/sbin/init",
            "/usr/sbin/smbd --foreground",
            "/usr/sbin/nginx: master process",
            "vim /etc/postgres",
            "grep etcd",
            "/usr/bin/java -jar app.jar",
            "[kworker/0:1]",
            "",
        ];
        assert_eq!(seen(&lines), []);
    }

    #[test]
    fn what_is_shown_of_a_process_is_short_and_holds_no_secrets() {
        let found = observe(&[Process::of_command_line("/usr/bin/etcd --initial-cluster-token hunter2")]);
        assert_eq!(found[0].evidence, "process etcd");
    }
}
