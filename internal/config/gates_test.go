package config

import (
	"fmt"
	"strings"
	"testing"
)

// What etcd 3.7.3 shows as etcd_server_feature_enabled for the same flags.
func TestStatesOfGatesAreEtcds(t *testing.T) {
	for given, want := range map[string]string{
		"":               "FastLeaseKeepAlive TxnModeWriteWithSharedBuffer",
		"AllBeta=false":  "",
		"AllAlpha=true":  "AllAlpha CompactHashCheck FastLeaseKeepAlive InitialCorruptCheck LeaseCheckpoint LeaseCheckpointPersist PriorityRequest SetMemberLocalAddr StopGRPCServiceOnDefrag TxnModeWriteWithSharedBuffer",
		"AllBeta=true":   "AllBeta FastLeaseKeepAlive TxnModeWriteWithSharedBuffer",
		"AllAlpha=false": "FastLeaseKeepAlive TxnModeWriteWithSharedBuffer",
	} {
		var g Gates
		if err := (gates{&g}).set(given); err != nil {
			t.Fatal(err)
		}
		var on, beta []string
		for _, s := range g.States() {
			if s.On {
				on = append(on, string(s.Gate))
			}
			if s.Beta {
				beta = append(beta, string(s.Gate))
			}
		}
		if got := strings.Join(on, " "); got != want {
			t.Errorf("%q: on are %s, want %s", given, got, want)
		}
		if got := fmt.Sprint(beta); got != "[AllBeta FastLeaseKeepAlive TxnModeWriteWithSharedBuffer]" {
			t.Errorf("beta gates are %s", got)
		}
	}
}
