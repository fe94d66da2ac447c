package state

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"kvd/internal/member"
	"kvd/internal/store"
)

// Alarm is an alarm that a member has raised.
type Alarm struct {
	Member member.ID
	Type   pb.AlarmType
}

// row is the alarm's row key, and its serialized message.
func (a Alarm) row() []byte {
	return appendInt(appendInt(nil, 1, uint64(a.Member)), 2, uint64(a.Type))
}

func (a Alarm) compare(b Alarm) int {
	return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Member, b.Member))
}

func loadAlarms(r store.Reader) (alarms []Alarm, err error) {
	r.Scan(store.Alarm, nil, nil, func(key, _ []byte) bool {
		var a pb.AlarmMember
		if err = proto.Unmarshal(key, &a); err != nil {
			err = fmt.Errorf("row %x: %w", key, err)
			return false
		}
		alarms = append(alarms, Alarm{member.ID(a.MemberID), a.Alarm})
		return true
	})
	slices.SortFunc(alarms, Alarm.compare)
	return alarms, err
}

// alarm lists, raises or lowers alarms. What makes no sense changes nothing
// and lists nothing.
func (m *Machine) alarm(r *pb.AlarmRequest) Outcome {
	reply := &AlarmReply{Revision: m.keys.Revision()}
	a := Alarm{member.ID(r.MemberID), r.Alarm}
	at, raised := slices.BinarySearchFunc(m.alarms, a, Alarm.compare)
	switch {
	case r.Action == pb.AlarmRequest_GET:
		for _, a := range m.alarms {
			if r.Alarm == pb.AlarmType_NONE || a.Type == r.Alarm {
				reply.Alarms = append(reply.Alarms, a)
			}
		}
	case r.Action == pb.AlarmRequest_ACTIVATE && r.Alarm != pb.AlarmType_NONE:
		if !raised {
			m.alarms = slices.Insert(slices.Clone(m.alarms), at, a)
			m.batch.Put(store.Alarm, a.row(), []byte{})
		}
		reply.Alarms = []Alarm{a}
	case r.Action == pb.AlarmRequest_DEACTIVATE && raised:
		m.alarms = slices.Delete(slices.Clone(m.alarms), at, at+1)
		m.batch.Delete(store.Alarm, a.row())
		reply.Alarms = []Alarm{a}
	}
	return Outcome{Reply: reply}
}

// change applies a membership change. One that is refused is still told to
// raft, as a change of no node.
func (m *Machine) change(cc *raftpb.ConfChange) Outcome {
	c, err := member.ParseChange(cc)
	if err == nil {
		err = m.members.Validate(c, m.options.MaxLearners)
	}
	if err != nil {
		none := proto.CloneOf(cc)
		none.NodeId = new(uint64(0))
		return Outcome{Err: err, Change: none}
	}
	m.members.Apply(c, m.batch)
	return Outcome{Reply: m.done(), Change: cc}
}

// ClusterVersion is the newest cluster version that this machine can serve.
var ClusterVersion = member.Version{Major: 3, Minor: 7}

// StorageVersion is the row of bucket "meta" that says which version's layout
// the database has.
const StorageVersion = "storageVersion"

func (m *Machine) setVersion(index uint64, r *membershippb.ClusterVersionSetRequest) Outcome {
	v, err := member.ParseVersion(r.Ver)
	if err != nil {
		return Outcome{Fatal: &UnknownCommandError{index, fmt.Sprintf("it sets the cluster version to %q: %v", r.Ver, err)}}
	}
	if v.Line().Compare(ClusterVersion) > 0 {
		return Outcome{Fatal: &UnknownCommandError{index, fmt.Sprintf("it raises the cluster version to %s, and this version of kvd speaks %s", v, ClusterVersion)}}
	}
	m.members.SetVersion(v, m.batch)
	m.setStorageVersion(v.Line())
	return Outcome{Reply: m.done()}
}

// setStorageVersion makes the layout follow the cluster version, as every etcd
// member does of its own accord. 3.5 had no such row.
func (m *Machine) setStorageVersion(v member.Version) {
	if v == (member.Version{Major: 3}) {
		return // some member is not known yet: it says nothing of the layout
	}
	if v.Compare(member.Version{Major: 3, Minor: 6}) < 0 {
		m.batch.Delete(store.Meta, []byte(StorageVersion))
		return
	}
	m.batch.Put(store.Meta, []byte(StorageVersion), []byte(v.String()))
}

func (m *Machine) setAttributes(index uint64, r *membershippb.ClusterMemberAttrSetRequest) Outcome {
	a := r.GetMemberAttributes()
	err := m.members.SetAttributes(member.ID(r.Member_ID), a.GetName(), a.GetClientUrls(), m.batch)
	switch {
	case errors.Is(err, member.ErrRemoved):
		return Outcome{Err: err}
	case err != nil:
		return Outcome{Fatal: &UnknownCommandError{index, fmt.Sprintf("it names member %s: %v", member.ID(r.Member_ID), err)}}
	}
	return Outcome{Reply: m.done()}
}

func (m *Machine) setDowngrade(r *membershippb.DowngradeInfoSetRequest) Outcome {
	var d member.Downgrade
	if r.Enabled {
		d = member.Downgrade{Enabled: true, Target: r.Ver}
	}
	m.members.SetDowngrade(d, m.batch)
	return Outcome{Reply: m.done()}
}
