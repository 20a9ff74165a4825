package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"pgbaton/internal/demo/shop"
	"pgbaton/internal/routine"
)

// What the storefront tells its visitors to wait for: longer than any pause.
const retryFor = 20 * time.Second

// A front is the shop's web server, with its settings in a file, as a service
// manager would hold them (systemd's EnvironmentFile).
type front struct {
	url  string
	path string // of the file of settings

	store   *shop.Store
	server  *http.Server
	log     *os.File
	hangups chan os.Signal
	done    chan struct{} // closed to end the goroutine that awaits hangups
	running routine.Group
}

const databaseVariable = "DATABASE_URL="

// openShop starts the storefront: on PgBouncer, or else on the source.
func (d *demo) openShop(ctx context.Context) error {
	began := time.Now()
	path, url := filepath.Join(d.dir, "shop.env"), d.shopURL(d.source)
	if d.pooler != nil {
		url = d.pooler.ConnString(shopDatabase, shopRole)
	}
	if err := os.WriteFile(path, []byte(databaseVariable+url+"\n"), 0o600); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(d.dir, "shop.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	f := &front{path: path, log: log, hangups: make(chan os.Signal, 1), done: make(chan struct{})}
	logger := slog.New(slog.NewTextHandler(log, nil))
	f.store, err = shop.NewStore(url, shop.Options{RetryFor: retryFor, MaxConns: 10, Logger: logger})
	if err != nil {
		return errors.Join(err, log.Close())
	}
	listener, err := listen(ctx, d.Port)
	if err != nil {
		f.store.Close()
		return errors.Join(err, log.Close())
	}
	port := listener.Addr().(*net.TCPAddr).Port
	f.url = "http://" + listener.Addr().String()
	f.server = &http.Server{
		Handler: f.store, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
	signal.Notify(f.hangups, syscall.SIGHUP)
	f.running.Go(func() error {
		if err := f.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			logger.Error("the web server ended", "error", err)
		}
		return nil
	})
	f.running.Go(func() error { f.awaitHangups(logger, d.transcript); return nil })
	d.front = f
	d.report.ShopURL = f.url + "/"
	d.step(fmt.Sprintf("The storefront: %s; its database: %s", d.report.ShopURL, hostOf(url)), time.Since(began))
	if port != d.Port {
		d.say("(port %d is taken; this is the next free one)", d.Port)
	}
	return nil
}

// listen takes the port, or the next one that is free.
func listen(ctx context.Context, first int) (net.Listener, error) {
	const attempts = 100
	for port := first; ; port++ {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if errors.Is(err, syscall.EADDRINUSE) && port < min(first+attempts, 65535) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open the storefront: %w", err)
		}
		return listener, nil
	}
}

// awaitHangups reads the settings again whenever it is told to.
func (f *front) awaitHangups(logger *slog.Logger, t *transcript) {
	for {
		select {
		case <-f.done:
			return
		case <-f.hangups:
		}
		url, err := f.databaseURL()
		if err == nil {
			err = f.store.Repoint(url)
		}
		if err != nil {
			logger.Error("SIGHUP: the settings could not be taken over", "error", err)
			t.say("the shop: SIGHUP, but the settings could not be taken over: %v", err)
			continue
		}
		// Also how we notice that the SIGHUP came from a terminal that is gone.
		t.say("the shop: SIGHUP, database is now at %s", hostOf(url))
	}
}

// databaseURL reads the file of settings.
func (f *front) databaseURL() (string, error) {
	text, err := os.ReadFile(f.path)
	if err != nil {
		return "", err
	}
	url, found := strings.CutPrefix(strings.TrimSpace(string(text)), databaseVariable)
	if !found {
		return "", fmt.Errorf("%s does not set %s", f.path, strings.TrimSuffix(databaseVariable, "="))
	}
	return url, nil
}

func hostOf(url string) string {
	_, rest, _ := strings.Cut(url, "@")
	host, _, _ := strings.Cut(rest, "/")
	return host
}

// close ends the web server and its connections without patience: after a
// failure requests may be waiting for a database that will never serve again.
func (f *front) close() error {
	signal.Stop(f.hangups)
	close(f.done)
	err := f.server.Close()
	_ = f.running.Wait() // they return no error
	f.store.Close()
	return errors.Join(err, f.log.Close())
}
