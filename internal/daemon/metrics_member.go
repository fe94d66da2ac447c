package daemon

import (
	"fmt"
	"runtime"
)

// memberFamilies say who the member is and what it takes part in.
func memberFamilies() []family {
	return []family{
		labelled("etcd_server_id", "This member's ID in hexadecimal, as a label; always 1.", []string{"server_id"},
			func(r *reading, show show) { show(1, r.id.String()) }),
		labelled("etcd_server_version", "The etcd version whose behaviour this server has, as a label; always 1.", []string{"server_version"},
			func(_ *reading, show show) { show(1, etcdVersion) }),
		labelled("etcd_server_go_version", "The Go version that this server was built with, as a label; always 1.", []string{"server_go_version"},
			func(_ *reading, show show) { show(1, runtime.Version()) }),
		labelled("etcd_cluster_version", "The version that the cluster has agreed on, as a label; always 1.", []string{"cluster_version"},
			func(r *reading, show show) {
				if v := r.view.Members.ClusterVersion(); v.Known() {
					show(1, fmt.Sprintf("%d.%d", v.Major, v.Minor))
				}
			}),
		labelled("etcd_server_feature_enabled", "Feature gates: 1 if the feature is on, else 0.", []string{"name", "stage"}, showGates),
		labelled("etcd_network_known_peers", "Members of the cluster: 1, or 0 for one that was removed.", []string{"Local", "Remote"}, showMembers),
		labelled("etcd_debugging_server_alarms", "Alarms that are raised; always 1.", []string{"server_id", "alarm_type"}, showAlarms),
		gauge("etcd_server_is_learner", "1 if this member is a learner, else 0.", func(r *reading) int {
			self, _ := r.view.Members.Member(r.id)
			return int(truth(self.Learner))
		}),
		gauge("etcd_debugging_auth_revision", "The revision of users and roles.", func(r *reading) uint64 { return r.view.Users.Revision() }),
	}
}

func showGates(r *reading, show show) {
	for _, g := range r.gates {
		stage := "ALPHA"
		if g.Beta {
			stage = "BETA"
		}
		show(truth(g.On), string(g.Gate), stage)
	}
}

func showMembers(r *reading, show show) {
	self := r.id.String()
	for _, m := range r.view.Members.Members() {
		show(1, self, m.ID.String())
	}
	for _, id := range r.view.Members.RemovedIDs() {
		show(0, self, id.String())
	}
}

func showAlarms(r *reading, show show) {
	for _, a := range r.view.Alarms {
		show(1, a.Member.String(), a.Type.String())
	}
}
