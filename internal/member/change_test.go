package member

import (
	"encoding/hex"
	"reflect"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

func TestChangesAreWrittenAsEtcdDoes(t *testing.T) {
	m := Member{ID: 5, PeerURLs: []string{"http://a:1"}}
	learner := Member{ID: 5, PeerURLs: []string{"http://a:1"}, Learner: true}
	named := Member{ID: 5, PeerURLs: []string{"http://a:1"}, Name: "m1"}
	for name, c := range map[string]struct {
		change  Change
		request uint64
		head    string // hex, before the context
		context string
	}{
		"bootstrap":   {Change{Type: raftpb.ConfChangeAddNode, ID: 5, Member: named}, 0, "10001805", `{"id":5,"peerURLs":["http://a:1"],"name":"m1"}`},
		"add voter":   {Change{Type: raftpb.ConfChangeAddNode, ID: 5, Member: m}, 9, "080910001805", `{"id":5,"peerURLs":["http://a:1"]}`},
		"add learner": {Change{Type: raftpb.ConfChangeAddLearnerNode, ID: 5, Member: learner}, 9, "080910031805", `{"id":5,"peerURLs":["http://a:1"],"isLearner":true}`},
		"promote":     {Change{Type: raftpb.ConfChangeAddNode, ID: 5, Member: Member{ID: 5}, Promote: true}, 9, "080910001805", `{"id":5,"peerURLs":null,"isPromote":true}`},
		"update":      {Change{Type: raftpb.ConfChangeUpdateNode, ID: 5, Member: m}, 9, "080910021805", `{"id":5,"peerURLs":["http://a:1"]}`},
		"remove":      {Change{Type: raftpb.ConfChangeRemoveNode, ID: 5, Member: Member{ID: 5}}, 9, "080910011805", ""},
	} {
		t.Run(name, func(t *testing.T) {
			cc := c.change.Entry(c.request)
			wire, err := proto.MarshalOptions{Deterministic: true}.Marshal(cc)
			if err != nil {
				t.Fatal(err)
			}
			want := c.head
			if c.context != "" {
				want += hex.EncodeToString([]byte{0x22, byte(len(c.context))}) + hex.EncodeToString([]byte(c.context))
			}
			if got := hex.EncodeToString(wire); got != want {
				t.Errorf("wrote %s\nwant  %s", got, want)
			}
			var read raftpb.ConfChange
			if err := proto.Unmarshal(wire, &read); err != nil {
				t.Fatal(err)
			}
			if back, err := ParseChange(&read); err != nil || !reflect.DeepEqual(back, c.change) {
				t.Errorf("read %+v, %v", back, err)
			}
		})
	}
}

func TestChangesThatNobodyWroteAreRefused(t *testing.T) {
	five := uint64(5)
	for want, cc := range map[string]*raftpb.ConfChange{
		"unknown type":       {Type: raftpb.ConfChangeType(9).Enum(), NodeId: &five},
		"context: ":          {Type: raftpb.ConfChangeAddNode.Enum(), NodeId: &five, Context: []byte("{")},
		"unexpected end":     {Type: raftpb.ConfChangeAddNode.Enum(), NodeId: &five},
		"is about 6":         {Type: raftpb.ConfChangeUpdateNode.Enum(), NodeId: &five, Context: []byte(`{"id":6}`)},
		"change of member 5": {Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: &five, Context: []byte(`[]`)},
	} {
		if c, err := ParseChange(cc); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, %v; want %q", c, err, want)
		}
	}
}
