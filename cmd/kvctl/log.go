package main

import (
	"fmt"
	"strings"
	"sync"

	"go.etcd.io/etcd/client/pkg/v3/logutil"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// logger is where the client library logs. Scripts get etcdctl's JSON lines
// on stderr. A person would not read them: on a terminal they are dropped,
// and only the last complaint is kept, for the hint that follows the error.
func (p *program) logger() (*zap.Logger, *lastLogged) {
	last := &lastLogged{Core: zapcore.NewNopCore()}
	if p.terminal && !p.globals.debug {
		return zap.New(last), last
	}
	lines := zapcore.NewCore(
		zapcore.NewJSONEncoder(logutil.DefaultZapLoggerConfig.EncoderConfig),
		zapcore.Lock(zapcore.AddSync(p.errs)),
		clientv3.ClientLogLevel(),
	)
	return zap.New(zapcore.NewTee(lines, last), zap.AddCaller()), last
}

// tellUnknown warns of a misspelled variable. A leftover of etcdctl's
// (ETCDCTL_API=3 is in many profiles) is not worth a person's time.
func (p *program) tellUnknown(log *zap.Logger, unknown []string) {
	for _, e := range unknown {
		log.Warn("unrecognized environment variable", zap.String("environment-variable", e))
		if p.terminal && strings.HasPrefix(e, envPrefixes[0]) {
			fmt.Fprintf(p.errs, "Warning: unrecognized environment variable %s; \"kvctl options\" lists the flags that have one\n", e)
		}
	}
}

// lastLogged keeps the error of the last warning and writes nothing.
type lastLogged struct {
	zapcore.Core
	mu   sync.Mutex
	text string
}

func (l *lastLogged) Enabled(level zapcore.Level) bool { return level >= zapcore.WarnLevel }

func (l *lastLogged) With([]zapcore.Field) zapcore.Core { return l }

func (l *lastLogged) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if l.Enabled(e.Level) {
		return checked.AddCore(e, l)
	}
	return checked
}

func (l *lastLogged) Write(_ zapcore.Entry, fields []zapcore.Field) error {
	for _, f := range fields {
		if err, ok := f.Interface.(error); ok && f.Type == zapcore.ErrorType {
			l.mu.Lock()
			l.text = err.Error()
			l.mu.Unlock()
		}
	}
	return nil
}

func (l *lastLogged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text
}
