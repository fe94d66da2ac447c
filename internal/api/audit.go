package api

import (
	"context"
	"log/slog"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Audit says which calls are written down, with who made them, what they were
// about, and what came of it. Values and passwords never are.
type Audit uint8

// AuditWrites is what changes something or was denied; AuditAll reads, too.
// Renewals of leases are not among them: what keeps them alive is one stream.
const (
	AuditNone Audit = iota
	AuditWrites
	AuditAll
)

// messageAudit is the MESSAGE_ID that the journal finds the audit by.
const messageAudit = "6e9a3b0c51f14c0e9d2d1f7f0a5b7c23"

// audit writes a call down, if it is to be.
func (m *method) audit(ctx context.Context, request any, err error) {
	if !m.audited(request, err) {
		return
	}
	attrs := append([]slog.Attr{slog.String("message_id", messageAudit)}, m.told(ctx, request, err)...)
	if err != nil {
		attrs = append(attrs, slog.String("error", status.Convert(err).Message()))
	}
	m.api.log.LogAttrs(ctx, slog.LevelInfo, "audit", attrs...)
}

func (m *method) audited(request any, err error) bool {
	switch m.api.o.Audit {
	case AuditAll:
		return !strings.HasPrefix(m.name, "/grpc.health.")
	case AuditWrites:
		code := status.Code(err)
		return code == codes.PermissionDenied || code == codes.Unauthenticated || !m.onlyReads(request)
	default:
		return false
	}
}

// onlyReads reports whether a call cannot change anything.
func (m *method) onlyReads(request any) bool {
	if r, ok := request.(*pb.TxnRequest); ok {
		only, _ := readsOnly(r)
		return only
	}
	if r, ok := request.(*pb.AlarmRequest); ok {
		return r.Action == pb.AlarmRequest_GET
	}
	_, name, _ := strings.Cut(m.name[1:], "/")
	switch name {
	case "Range", "RangeStream", "Watch",
		"LeaseKeepAlive", "LeaseTimeToLive", "LeaseLeases",
		"MemberList", "Status", "Hash", "HashKV",
		"AuthStatus", "UserGet", "UserList", "RoleGet", "RoleList",
		"Leader", "Observe", "Check", "List":
		return true
	}
	return false
}
