package daemon

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"kvd/internal/replica"
)

func TestAPublicationThatIsLostIsSoonRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun, tries := time.Now(), 0
		err := insist(t.Context(), slog.New(slog.DiscardHandler), func(ctx context.Context) error {
			if tries++; tries == 3 {
				return nil
			}
			<-ctx.Done() // no answer
			return ctx.Err()
		})
		if took := time.Since(begun); err != nil || tries != 3 || took > 2*time.Second {
			t.Errorf("%d tries, the last ended with %v after %v", tries, err, took)
		}
	})
}

func TestAPublicationGivesALeaderMoreTimeAtEachTry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		err := insist(t.Context(), slog.New(slog.DiscardHandler), func(ctx context.Context) error {
			select {
			case <-time.After(30 * time.Second): // a slow cluster
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestAPublicationEndsWithTheMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		never := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		if err := insist(ctx, slog.New(slog.DiscardHandler), never); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		stopped := func(context.Context) error { return replica.ErrStopped }
		if err := insist(t.Context(), slog.New(slog.DiscardHandler), stopped); !errors.Is(err, replica.ErrStopped) {
			t.Error(err)
		}
	})
}
