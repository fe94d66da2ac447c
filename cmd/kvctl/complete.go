package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// A person waits for a completion: late is as good as never.
	completeWithin = time.Second
	completeMost   = 64
)

// completer finds what may stand where begun stands. It takes as long as ctx.
type completer func(ctx context.Context, c *clientv3.Client, begun string) ([]string, cobra.ShellCompDirective)

// completes has the cluster asked for the arguments of cmd, those in places
// that are not nil. Whatever goes wrong, there is just no completion.
func (p *program) completes(cmd *cobra.Command, places ...completer) *cobra.Command {
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		const none = cobra.ShellCompDirectiveNoFileComp
		if len(args) >= len(places) || places[len(args)] == nil {
			return nil, none
		}
		p.in, p.out, p.errs = nobody{}, io.Discard, io.Discard // never ask, never disturb
		s, err := p.prepare(cmd)
		if err != nil {
			return nil, none
		}
		s.spec.DialTimeout = completeWithin
		c, err := s.quietly().dial(s.log, s.spec.Endpoints...)
		if err != nil {
			return nil, none
		}
		defer hangUp(c)
		ctx, cancel := context.WithTimeout(context.Background(), completeWithin)
		defer cancel()
		return places[len(args)](ctx, c, begun)
	}
	return cmd
}

// nobody is standard input where no question may be asked.
type nobody struct{}

func (nobody) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// keys are those that begin so, up to the next slash: each step asks for the
// first key behind what was found, so it costs little in any store.
func keys(ctx context.Context, c *clientv3.Client, begun string) (found []string, directive cobra.ShellCompDirective) {
	from, span := wholeSpan(begun, true, false)
	end := string(clientv3.OpGet(from, span...).RangeBytes())
	directive = cobra.ShellCompDirectiveNoFileComp
	for len(found) < completeMost && from != "" {
		resp, err := c.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(1), clientv3.WithKeysOnly(), clientv3.WithSerializable())
		if err != nil || len(resp.Kvs) == 0 {
			break
		}
		key := string(resp.Kvs[0].GetKey())
		from = key + "\x00"
		if slash := strings.Index(key[len(begun):], "/"); slash >= 0 {
			key = key[:len(begun)+slash+1]
			directive |= cobra.ShellCompDirectiveNoSpace
			if from = clientv3.GetPrefixRangeEnd(key); from == "\x00" { // nothing is behind it
				from = ""
			}
		}
		if typable(key) {
			found = append(found, key)
		}
	}
	return found, directive
}

// typable says whether a shell can complete a word to this.
func typable(word string) bool {
	return word != "" && word[0] != '-' && !strings.ContainsFunc(word, func(r rune) bool {
		return r == unicode.ReplacementChar || unicode.IsSpace(r) || !unicode.IsPrint(r)
	})
}

// members are known by their names, where those do not look like an ID, and by
// their IDs.
func members(ctx context.Context, c *clientv3.Client, _ string) (found []string, directive cobra.ShellCompDirective) {
	directive = cobra.ShellCompDirectiveNoFileComp
	list, err := c.MemberList(ctx, clientv3.WithSerializable())
	if err != nil {
		return nil, directive
	}
	for _, m := range list.Members {
		id := strconv.FormatUint(m.GetID(), 16)
		if _, err := strconv.ParseUint(m.GetName(), 16, 64); err != nil && typable(m.GetName()) {
			found = append(found, fmt.Sprintf("%s\t%s %s", m.GetName(), id, strings.Join(m.GetPeerURLs(), ",")))
		}
		found = append(found, fmt.Sprintf("%s\t%s %s", id, m.GetName(), strings.Join(m.GetPeerURLs(), ",")))
	}
	return found, directive
}

func leases(ctx context.Context, c *clientv3.Client, _ string) (found []string, directive cobra.ShellCompDirective) {
	directive = cobra.ShellCompDirectiveNoFileComp
	list, err := c.Leases(ctx)
	if err != nil {
		return nil, directive
	}
	for _, l := range list.Leases {
		if len(found) < completeMost {
			found = append(found, strconv.FormatInt(int64(l.ID), 16))
		}
	}
	return found, directive
}

func users(ctx context.Context, c *clientv3.Client, _ string) ([]string, cobra.ShellCompDirective) {
	list, err := c.UserList(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return list.Users, cobra.ShellCompDirectiveNoFileComp
}

func roles(ctx context.Context, c *clientv3.Client, _ string) ([]string, cobra.ShellCompDirective) {
	list, err := c.RoleList(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return list.Roles, cobra.ShellCompDirectiveNoFileComp
}

// words completes one of a few words.
func words(all ...string) completer {
	return func(context.Context, *clientv3.Client, string) ([]string, cobra.ShellCompDirective) {
		return all, cobra.ShellCompDirectiveNoFileComp
	}
}

// complete says for all commands what their arguments are.
func (p *program) complete(root *cobra.Command) {
	for path, places := range map[string][]completer{
		"get": {keys, keys}, "put": {keys}, "del": {keys, keys}, "watch": {keys, keys},
		"lease revoke": {leases}, "lease timetolive": {leases}, "lease keep-alive": {leases},
		"member remove": {members}, "member promote": {members}, "member update": {members}, "move-leader": {members},
		"user get": {users}, "user delete": {users}, "user passwd": {users},
		"user grant-role": {users, roles}, "user revoke-role": {users, roles},
		"role get": {roles}, "role delete": {roles},
		"role grant-permission":  {roles, words("read", "write", "readwrite"), keys, keys},
		"role revoke-permission": {roles, keys, keys},
	} {
		cmd, rest, err := root.Find(strings.Fields(path))
		if err != nil || len(rest) > 0 {
			panic(fmt.Sprintf("kvctl: no command %q to complete (%v)", path, err))
		}
		p.completes(cmd, places...)
	}
}
