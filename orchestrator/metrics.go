package orchestrator

import (
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are what /metrics tells. No label has a value that a peer chooses: keys
// and namespaces are in the log.
type metrics struct {
	registry *prometheus.Registry

	dropped  prometheus.Counter
	logins   *prometheus.CounterVec // by how they ended
	refusals *prometheus.CounterVec // by what of audit's lines
	missed   prometheus.Counter
	busy     *prometheus.CounterVec // by what was full
	find     *prometheus.HistogramVec
	client   traffic // with clients' channels
	executor traffic // with executors' channels
}

// traffic counts bytes that the peers sent, and that were sent to them.
type traffic struct{ in, out prometheus.Counter }

func newMetrics(s *Server) *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	name := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "orchestrator", Name: name, Help: help}
	}
	counter := func(n, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts(name(n, help)))
		m.registry.MustRegister(c)
		return c
	}
	counters := func(n, help, label string, values ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts(name(n, help)), []string{label})
		for _, v := range values {
			c.WithLabelValues(v) // it is 0 before the first
		}
		m.registry.MustRegister(c)
		return c
	}
	m.dropped = counter("connections_dropped_total", "Connections that were closed before a login because there were too many, or for what others of their network did.")
	m.logins = counters("logins_total", "Connections by how their login ended.", "result", "accepted", "issued", "refused", "late", "left", "busy")
	m.refusals = counters("refusals_total", "What was asked for and refused.", "what", "login", "token", "approve", "announce", "forward", "namespace")
	m.missed = counter("audit_missed_total", "Lines of the audit that were left out because there were too many.")
	m.busy = counters("busy_total", "What was refused for now because a limit was reached.", "what", "login", "channel", "executor", "find")
	m.find = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "orchestrator", Name: "find_duration_seconds",
		Help:    "How long answers of find took: of questions that wait for a run to end, and of all others (ask).",
		Buckets: []float64{.0001, .0005, .001, .005, .01, .05, .1, .5, 1, 2, 10, 60, 600, 3600},
	}, []string{"kind"})
	m.find.WithLabelValues("ask")
	m.find.WithLabelValues("wait")
	m.registry.MustRegister(m.find)
	bytes := prometheus.NewCounterVec(prometheus.CounterOpts(name("channel_bytes_total",
		"Bytes on channels: in is what clients or executors sent, out what was sent to them.")), []string{"peer", "direction"})
	m.registry.MustRegister(bytes)
	m.client = traffic{bytes.WithLabelValues("client", "in"), bytes.WithLabelValues("client", "out")}
	m.executor = traffic{bytes.WithLabelValues("executor", "in"), bytes.WithLabelValues("executor", "out")}
	m.registry.MustRegister(
		&gauges{s,
			prometheus.NewDesc("orchestrator_connections", "Connections that have logged in.", nil, nil),
			prometheus.NewDesc("orchestrator_unauthenticated_connections", "Connections that have not logged in.", nil, nil),
			prometheus.NewDesc("orchestrator_channels", "Open channels by who opened them.", []string{"opener"}, nil),
			prometheus.NewDesc("orchestrator_executors", "Executors that are connected.", nil, nil),
			prometheus.NewDesc("orchestrator_namespaces", "Namespaces that executors export.", nil, nil),
		},
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewBuildInfoCollector(),
	)
	return m
}

// asked notes that find has answered q.
func (m *metrics) asked(q question, began time.Time) {
	kind := "ask"
	if q.waitName != "" {
		kind = "wait"
	}
	m.find.WithLabelValues(kind).Observe(time.Since(began).Seconds())
}

// gauges are counted when they are asked for.
type gauges struct {
	s                                                             *Server
	connections, unauthenticated, channels, executors, namespaces *prometheus.Desc
}

func (g *gauges) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{g.connections, g.unauthenticated, g.channels, g.executors, g.namespaces} {
		to <- d
	}
}

func (g *gauges) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, n int, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	conns := g.s.live.all()
	in, out := 0, 0
	for _, c := range conns {
		in += len(c.in)
		out += len(c.out) + len(c.doors)
	}
	executors, namespaces := g.s.dir.size()
	gauge(g.connections, len(conns))
	gauge(g.unauthenticated, g.s.sources.HalfOpen())
	gauge(g.channels, in, "client")
	gauge(g.channels, out, "orchestrator")
	gauge(g.executors, executors)
	gauge(g.namespaces, namespaces)
}

// Handler returns what answers GET /metrics, in Prometheus's text format, and GET
// /healthz: 200 if Health reports no error, else 503 and the error. It has no
// authentication: it is to be served to this machine alone.
func (s *Server) Handler() http.Handler {
	h := http.NewServeMux()
	h.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	h.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if err := s.Health(); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			w.Write([]byte(err.Error() + "\n"))
			return
		}
		w.Write([]byte("ok\n"))
	})
	return h
}

// acceptWait is the longest delay before a listener that could not accept tries
// again.
const acceptWait = time.Second

// A failedAccept is why a listener could not accept a connection.
type failedAccept struct {
	addr net.Addr
	err  error
	at   time.Time
}
