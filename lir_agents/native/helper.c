#include "helper.h"

#include "processor.h"

#if defined(_WIN32)

static int hire(Work *work) { return (void)work, 0; }
static void dismiss(Work *work) { (void)work; }

#else

#include <pthread.h>
#include <signal.h>
#include <time.h>

enum { PATIENCE = 4000, NAP_NS = 50000 }; /* looks at a flag, some 50 microseconds, and then naps as long as that */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t wanted;
    int made;   /* 1: it is there. -1: there is none to be had */
    Work *next; /* to be taken up */
    Work *now;  /* being helped with */
} helper = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, NULL, NULL};

static void *help(void *unused) {
    pthread_mutex_lock(&helper.lock);
    for (;;) {
        while (!helper.next) pthread_cond_wait(&helper.wanted, &helper.lock);
        Work *work = helper.next;
        helper.next = NULL;
        __atomic_store_n(&helper.now, work, __ATOMIC_RELEASE);
        pthread_mutex_unlock(&helper.lock);
        work->share(work, 1);
        pthread_mutex_lock(&helper.lock);
        __atomic_store_n(&helper.now, NULL, __ATOMIC_RELEASE);
    }
    return unused;
}

static void forget_helper(void) {
    const pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    const pthread_cond_t bell = PTHREAD_COND_INITIALIZER;
    helper.lock = lock;
    helper.wanted = bell;
    helper.made = 0;
    helper.next = helper.now = NULL;
}

/* The caller holds the lock. Signals are for the process's own threads. */
static void make_helper(void) {
    static int told;
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    if (!told) told = !pthread_atfork(NULL, NULL, forget_helper);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    helper.made = told && !pthread_create(&thread, NULL, help, NULL) ? 1 : -1;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (helper.made > 0) pthread_detach(thread);
}

/* Has the helper come as soon as it wakes up; whether it was there and free. */
static int hire(Work *work) {
    if (pthread_mutex_trylock(&helper.lock)) return 0;
    if (!helper.made) make_helper();
    const int idle = helper.made > 0 && !helper.next && !helper.now;
    if (idle) helper.next = work;
    pthread_mutex_unlock(&helper.lock);
    if (idle) pthread_cond_signal(&helper.wanted);
    return idle;
}

/* After it nobody touches the work but its owner. A helper that has not come yet is sent away; one that is at work has
   a few passages left, and is not waited for by a bell: some C libraries lose one in a great many. */
static void dismiss(Work *work) {
    pthread_mutex_lock(&helper.lock);
    if (helper.next == work) helper.next = NULL;
    pthread_mutex_unlock(&helper.lock);
    for (int looks = 0; __atomic_load_n(&helper.now, __ATOMIC_ACQUIRE) == work; looks++) {
        const struct timespec nap = {0, NAP_NS};
        if (looks >= PATIENCE) nanosleep(&nap, NULL);
#ifdef X86
        _mm_pause();
#endif
    }
}

#endif

void work_through(Work *work, int helped) {
    const int hired = helped && hire(work);
    work->share(work, 0);
    if (hired) dismiss(work);
}
