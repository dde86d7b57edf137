/* nats.c as its documentation has it: js_PublishAsync, a push callback, Fetch. Run by nats_c.py.
 *
 * nats_c WORKLOAD MODE STREAM CONSUMER SECONDS LIMIT RATE ENVELOPE-FILE MAX-ACK-PENDING; the URL is in $EDA_BENCH_URL.
 */
#include <nats/nats.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { WARM = 500, WARM_SINGLE = 50, BATCH = 500, AGGREGATES = 1000, AT_ONCE = 1000, PENDING = 4000 };

static char *envelope;
static int envelope_len;
static const char *stream_name;
static jsCtx *js;
static volatile long n_failed, n_handled;
static volatile int stopped;
static long limit, max_ack_pending;
static int64_t end_ns;
static int64_t *took, *due_of;
static long took_room;

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static double cpu_s(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void check(natsStatus s, const char *what)
{
    if (s == NATS_OK)
        return;
    fprintf(stderr, "nats.c: %s: %s\n", what, natsStatus_GetText(s));
    nats_PrintLastErrorStack(stderr);
    exit(1);
}

static void on_error(jsCtx *ctx, jsPubAckErr *error, void *closure)
{
    (void)ctx, (void)error, (void)closure;
    __atomic_add_fetch(&n_failed, 1, __ATOMIC_RELAXED);
}

static void publish(long n, const char *data, int wait)
{
    static char prefix[40];
    char subject[200], id[80];
    jsPubOptions options;
    if (!prefix[0])
        snprintf(prefix, sizeof prefix, "%llx", (unsigned long long)now_ns());
    snprintf(subject, sizeof subject, "%s.reading-recorded.sensor-%ld", stream_name, n % AGGREGATES);
    snprintf(id, sizeof id, "%s-%ld", prefix, n);
    jsPubOptions_Init(&options);
    options.MsgId = id;
    check(wait ? js_Publish(NULL, js, subject, data, envelope_len, &options, NULL)
               : js_PublishAsync(js, subject, data, envelope_len, &options),
          "publish");
}

static void complete(void)
{
    jsPubOptions options;
    jsPubOptions_Init(&options);
    options.MaxWait = 30000;
    check(js_PublishAsyncComplete(js, &options), "publish");
    if (n_failed) {
        fprintf(stderr, "nats.c: %ld publishes failed\n", n_failed);
        exit(1);
    }
}

static void print(long n, int64_t ns, long n_total, double cpu)
{
    printf("{\"n\": %ld, \"seconds\": %.9f, \"n_total\": %ld, \"cpu_s\": %.6f, \"mode\": \"\", \"latency_us\": [", n,
           ns / 1e9, n_total, cpu);
}

static void do_publish(const char *mode, double seconds)
{
    int single = strcmp(mode, "single") == 0;
    long warm = single ? WARM_SINGLE : WARM, n = 0;
    for (long i = 0; i < warm; i++)
        publish(i, envelope, single);
    if (!single)
        complete();
    double cpu = cpu_s();
    int64_t began = now_ns();
    end_ns = began + (int64_t)(seconds * 1e9);
    for (; n < limit && now_ns() < end_ns; n++)
        publish(warm + n, envelope, single);
    if (!single)
        complete();
    print(n, now_ns() - began, warm + n, cpu_s() - cpu);
}

static void on_message(natsConnection *nc, natsSubscription *sub, natsMsg *msg, void *closure)
{
    (void)nc, (void)sub, (void)closure;
    if (!stopped) {
        if (took) {
            int64_t due = 0;
            const unsigned char *data = (const unsigned char *)natsMsg_GetData(msg);
            for (int i = 0; i < 8; i++)
                due = due << 8 | data[i];
            if (due && n_handled < took_room) {
                due_of[n_handled] = due;
                took[n_handled] = now_ns() - due;
            }
        }
        natsMsg_Ack(msg, NULL);
        long n = n_handled + 1;
        if (!took && (n >= limit || now_ns() > end_ns))
            stopped = 1;
        __atomic_store_n(&n_handled, n, __ATOMIC_RELEASE);
    }
    natsMsg_Destroy(msg);
}

static void options_of(jsSubOptions *options, const char *consumer)
{
    jsSubOptions_Init(options);
    options->Stream = stream_name;
    options->ManualAck = true;
    options->Config.Durable = consumer;
    options->Config.AckPolicy = js_AckExplicit;
    options->Config.MaxAckPending = max_ack_pending;
}

static natsSubscription *push(const char *subject, const char *consumer)
{
    natsSubscription *sub = NULL;
    jsSubOptions options;
    options_of(&options, consumer);
    check(js_Subscribe(&sub, js, subject, on_message, NULL, NULL, &options, NULL), "subscribe");
    check(natsSubscription_SetPendingLimits(sub, -1, -1), "subscribe");
    return sub;
}

static void do_consume(natsConnection *conn, const char *mode, const char *subject, const char *consumer, double seconds)
{
    natsSubscription *sub = NULL;
    jsSubOptions options;
    double cpu = cpu_s();
    int64_t began = now_ns(), ended;
    end_ns = began + (int64_t)(seconds * 1e9);
    if (strcmp(mode, "fetch") == 0) {
        options_of(&options, consumer);
        check(js_PullSubscribe(&sub, js, subject, consumer, NULL, &options, NULL), "subscribe");
        while (n_handled < limit && now_ns() < end_ns) {
            natsMsgList list = {NULL, 0};
            long rest = limit - n_handled;
            check(natsSubscription_Fetch(&list, sub, rest < BATCH ? (int)rest : BATCH, 5000, NULL), "fetch");
            for (int i = 0; i < list.Count; i++)
                natsMsg_Ack(list.Msgs[i], NULL);
            n_handled += list.Count;
            natsMsgList_Destroy(&list);
        }
    } else {
        push(subject, consumer);
        while (!stopped) {
            nats_Sleep(1);
            if (now_ns() > end_ns + 15000000000LL) {
                fprintf(stderr, "nats.c: only %ld of %ld events came\n", n_handled, limit);
                exit(1);
            }
        }
    }
    ended = now_ns();
    cpu = cpu_s() - cpu;
    check(natsConnection_Flush(conn), "flush");
    print(n_handled, ended - began, n_handled, cpu);
}

static void await_handled(long n)
{
    int64_t end = now_ns() + 15000000000LL;
    while (__atomic_load_n(&n_handled, __ATOMIC_ACQUIRE) < n) {
        nats_Sleep(1);
        if (now_ns() > end) {
            fprintf(stderr, "nats.c: only %ld of %ld events came\n", n_handled, n);
            exit(1);
        }
    }
}

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void send_at(long n, int64_t due)
{
    for (int i = 0; i < 8; i++)
        envelope[i] = (char)(due >> (56 - 8 * i));
    publish(n, envelope, 0);
}

static void do_latency(const char *subject, const char *consumer, const char *url, double seconds, double rate)
{
    natsConnection *into = NULL;
    jsCtx *out = js;
    long n = 0, all = rate > 0 ? (long)(rate * seconds) : 1L << 60;
    if (all < 20)
        all = 20;
    took_room = rate > 0 ? all + WARM : 1 << 22;
    took = calloc(took_room, sizeof *took);
    due_of = calloc(took_room, sizeof *due_of);
    check(natsConnection_ConnectTo(&into, url), "connect");
    check(natsConnection_JetStream(&js, into, NULL), "connect");
    push(subject, consumer);
    js = out;
    for (long i = 0; i < WARM; i++)
        send_at(i, 0);
    complete();
    await_handled(WARM);
    double cpu = cpu_s();
    int64_t began = now_ns();
    end_ns = began + (int64_t)(seconds * 1e9);
    while (n < all) {
        int64_t due = rate > 0 ? began + (int64_t)(n * 1e9 / rate) : now_ns();
        struct timespec at = {due / 1000000000, due % 1000000000};
        if (rate > 0)
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
        else if (due > end_ns)
            break;
        send_at(WARM + n++, due);
    }
    complete();
    await_handled(WARM + n);
    print(n, now_ns() - began, WARM + n, cpu_s() - cpu);
    check(natsConnection_Flush(into), "flush");
    /* One publisher and one callback: in the order of their times. The first fifth is warm-up, as in work.py. */
    long first = WARM + n / 5, count = (n + WARM < took_room ? n + WARM : took_room) - first;
    qsort(took + first, count, sizeof *took, compare);
    for (int i = 0; i < 104; i++) {
        double q = i < 100 ? i / 100.0 : i == 100 ? 0.995 : i == 101 ? 0.999 : i == 102 ? 0.9999 : 1;
        long at = (long)(q * count);
        printf("%s%.3f", i ? ", " : "", took[first + (at < count ? at : count - 1)] / 1000.0);
    }
}

int main(int argc, char **argv)
{
    natsConnection *conn = NULL;
    jsOptions options;
    char subject[200];
    const char *url = getenv("EDA_BENCH_URL");
    if (argc != 10 || !url)
        return 2;
    const char *workload = argv[1], *mode = argv[2], *consumer = argv[4];
    double seconds = atof(argv[5]), rate = atof(argv[7]);
    stream_name = argv[3];
    limit = atol(argv[6]);
    max_ack_pending = atol(argv[9]);
    FILE *file = fopen(argv[8], "rb");
    if (!file)
        return 2;
    envelope = malloc(1 << 20);
    envelope_len = (int)fread(envelope, 1, 1 << 20, file);
    fclose(file);
    remove(argv[8]);
    snprintf(subject, sizeof subject, "%s.>", stream_name);
    check(natsConnection_ConnectTo(&conn, url), "connect");
    jsOptions_Init(&options);
    options.PublishAsync.MaxPending = strcmp(mode, "concurrent") == 0 ? AT_ONCE : PENDING;
    options.PublishAsync.StallWait = 30000;
    options.PublishAsync.ErrHandler = on_error;
    check(natsConnection_JetStream(&js, conn, &options), "connect");
    if (strcmp(workload, "publish") == 0)
        do_publish(mode, seconds);
    else if (strcmp(workload, "consume") == 0)
        do_consume(conn, mode, subject, consumer, seconds);
    else
        do_latency(subject, consumer, url, seconds, rate);
    printf("]}\n");
    fflush(stdout);
    _exit(0); /* the durable consumer stays for the suite's check: closing would delete it */
}
