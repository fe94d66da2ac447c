package config

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// What etcd 3.7.3 shows as etcd_server_feature_enabled for the same flags, but
// that the two checks and the checkpoints are on where nothing is said about them.
func TestStatesOfGatesAreEtcds(t *testing.T) {
	for given, want := range map[string]string{
		"":              "CompactHashCheck FastLeaseKeepAlive InitialCorruptCheck LeaseCheckpoint TxnModeWriteWithSharedBuffer",
		"AllBeta=false": "CompactHashCheck InitialCorruptCheck LeaseCheckpoint",
		"InitialCorruptCheck=false,LeaseCheckpoint=true": "CompactHashCheck FastLeaseKeepAlive LeaseCheckpoint TxnModeWriteWithSharedBuffer",
		"CompactHashCheck=false,AllAlpha=true":           "AllAlpha FastLeaseKeepAlive InitialCorruptCheck LeaseCheckpoint LeaseCheckpointPersist PriorityRequest SetMemberLocalAddr StopGRPCServiceOnDefrag TxnModeWriteWithSharedBuffer",
		"AllAlpha=true":                                  "AllAlpha CompactHashCheck FastLeaseKeepAlive InitialCorruptCheck LeaseCheckpoint LeaseCheckpointPersist PriorityRequest SetMemberLocalAddr StopGRPCServiceOnDefrag TxnModeWriteWithSharedBuffer",
		"AllBeta=true":                                   "AllBeta CompactHashCheck FastLeaseKeepAlive InitialCorruptCheck LeaseCheckpoint TxnModeWriteWithSharedBuffer",
		"AllAlpha=false":                                 "FastLeaseKeepAlive TxnModeWriteWithSharedBuffer",
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

func TestExplainNamesTheGatesThatAreOn(t *testing.T) {
	read := func(string) ([]byte, error) { return nil, os.ErrNotExist }
	for _, c := range []struct{ flag, want string }{
		{"--name=a", "CompactHashCheck=true,FastLeaseKeepAlive=true,InitialCorruptCheck=true,LeaseCheckpoint=true,TxnModeWriteWithSharedBuffer=true"},
		{"--feature-gates=InitialCorruptCheck=false", "CompactHashCheck=true,FastLeaseKeepAlive=true,LeaseCheckpoint=true,TxnModeWriteWithSharedBuffer=true"},
	} {
		text, _ := Explain([]string{"--config-file=", c.flag}, nil, read)
		if !strings.Contains(text, c.want+" ") {
			t.Errorf("%s: not %s:\n%s", c.flag, c.want, text)
		}
	}
}
