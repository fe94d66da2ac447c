package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"kvd/internal/config"
	"kvd/internal/member"
)

// credentialPrefix is that of a path that is there for the service alone.
const credentialPrefix = "credential:"

const (
	dialLimit = 5 * time.Second
	callLimit = 15 * time.Second
)

// dialled is a cluster over etcd's client.
type dialled struct{ client *clientv3.Client }

// dialCluster connects to the other members.
func dialCluster(ctx context.Context, o rejoinOptions, c *config.Config) (*dialled, error) {
	spec := &clientv3.ConfigSpec{Endpoints: o.endpoints, DialTimeout: dialLimit, Secure: &clientv3.SecureConfig{Cacert: o.cacert, Cert: o.cert, Key: o.key}}
	for _, endpoint := range o.endpoints {
		if !strings.HasPrefix(endpoint, "https://") {
			continue
		}
		if o.cacert == "" {
			spec.Secure.Cacert = c.ClientTLS.TrustedCAFile
		}
		// Without its certificate a client is let in where none is asked for.
		if o.cert == "" && o.key == "" && (c.ClientTLS.ClientCertAuth || !strings.HasPrefix(c.ClientTLS.KeyFile, credentialPrefix)) {
			spec.Secure.Cert, spec.Secure.Key = c.ClientTLS.CertFile, c.ClientTLS.KeyFile
		}
		break
	}
	for _, file := range []struct{ flag, path string }{{"--cacert", spec.Secure.Cacert}, {"--cert", spec.Secure.Cert}, {"--key", spec.Secure.Key}} {
		if strings.HasPrefix(file.path, credentialPrefix) {
			return nil, fmt.Errorf("connect to %s: %s is there for the service alone; name a file with %s", strings.Join(o.endpoints, ", "), file.path, file.flag)
		}
	}
	if o.user != "" {
		name, secret, given := strings.Cut(o.user, ":")
		if !given {
			secret = password()
		}
		spec.Auth = &clientv3.AuthConfig{Username: name, Password: secret}
	}
	cfg, err := clientv3.NewClientConfig(spec, zap.NewNop())
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", strings.Join(o.endpoints, ", "), err)
	}
	cfg.Logger, cfg.Context = zap.NewNop(), ctx
	client, err := clientv3.New(*cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", strings.Join(o.endpoints, ", "), err)
	}
	return &dialled{client}, nil
}

func (d *dialled) close() { d.client.Close() }

func (d *dialled) members(ctx context.Context) (member.ClusterID, []member.Member, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	reply, err := d.client.MemberList(ctx)
	if err != nil {
		return 0, nil, err
	}
	var all []member.Member
	for _, m := range reply.Members {
		all = append(all, member.Member{
			ID: member.ID(m.ID), Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, Learner: m.IsLearner,
		})
	}
	return member.ClusterID(reply.Header.GetClusterId()), all, nil
}

func (d *dialled) remove(ctx context.Context, id member.ID) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	_, err := d.client.MemberRemove(ctx, uint64(id))
	return err
}

func (d *dialled) add(ctx context.Context, peerURLs []string, learner bool) (member.ID, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	add := d.client.MemberAdd
	if learner {
		add = d.client.MemberAddAsLearner
	}
	reply, err := add(ctx, peerURLs)
	if err != nil {
		return 0, err
	}
	return member.ID(reply.Member.GetID()), nil
}

func (d *dialled) disarm(ctx context.Context, id member.ID) (corrupt []member.ID, err error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	raised, err := d.client.AlarmList(ctx)
	if err != nil {
		return nil, err
	}
	for _, a := range raised.Alarms {
		switch {
		case a.Alarm != pb.AlarmType_CORRUPT:
		case member.ID(a.MemberID) == id:
			_, failed := d.client.AlarmDisarm(ctx, &clientv3.AlarmMember{MemberID: a.MemberID, Alarm: a.Alarm})
			err = errors.Join(err, failed)
		default:
			corrupt = append(corrupt, member.ID(a.MemberID))
		}
	}
	return corrupt, err
}
