package daemon

import (
	"errors"
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/replica"
	"kvd/internal/upkeep"
)

func TestACorruptMemberSaysSo(t *testing.T) {
	m, notifier := newManager(t)
	d := run(t, Inputs{Config: configured(t, flags(t.TempDir())...), Notifier: notifier})
	d.ready(t)
	c := d.dial(t)
	must(t, put(t, c, "k", "v"))
	id := d.log.wait(t, "starting local member", 0)
	tell := func(action pb.AlarmRequest_AlarmAction, of uint64) {
		t.Helper()
		_, err := pb.NewMaintenanceClient(c.ActiveConnection()).Alarm(t.Context(), &pb.AlarmRequest{Action: action, MemberID: of, Alarm: pb.AlarmType_CORRUPT})
		must(t, err)
	}
	tell(pb.AlarmRequest_ACTIVATE, 0) // the whole cluster
	found := d.log.wait(t, "the data of this member is not what the other members hold, and the cluster refuses requests; replace it with 'kvd member rejoin', which also ends its alarm", 0)
	if field(found, "message_id") != messageCorrupt || field(found, "local-member-id") != field(id, "local-member-id") {
		t.Errorf("it is %v", found)
	}
	m.expect(t, "STATUS=", "CORRUPT")
	if err := put(t, c, "k", "w"); err == nil {
		t.Error("it still takes a put")
	}
	tell(pb.AlarmRequest_DEACTIVATE, 0)
	d.log.wait(t, "this member is not alarmed as corrupt any more", 0)
	tell(pb.AlarmRequest_ACTIVATE, 4711)
	d.log.wait(t, "another member's data is corrupt, and the cluster refuses requests", 0)
	must(t, d.stop(t))
}

func TestOnlyWhatARestartCannotHealIsUnfit(t *testing.T) {
	for err, want := range map[error]bool{
		fmt.Errorf("replica: %w", replica.ErrLogRegressed): true,
		fmt.Errorf("start: %w", upkeep.ErrCorrupt):         true,
		fmt.Errorf("start: %w", upkeep.ErrUndecided):       false,
		errors.New("disk full"):                            false,
		nil:                                                false,
	} {
		if got := Unfit(err); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}
