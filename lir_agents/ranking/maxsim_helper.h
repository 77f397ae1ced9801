/* One thread that helps whoever compares many tokens: half of that time is spent waiting for memory, and a second core
   waits for memory of its own. A part of maxsim.c.

   It is made when it is first wanted, sleeps until the end of the process, and helps one caller at a time; everybody
   else does without, nobody waits for it to be free. It does not survive a fork: the child's first call makes another. */

typedef struct Work Work;
static void look_through(Work *work, int helping);

#if defined(_WIN32)

static int hire(Work *work) { return (void)work, 0; }
static void dismiss(Work *work) { (void)work; }

#else

#include <pthread.h>
#include <signal.h>

enum { PATIENCE = 4000 }; /* looks at a flag, some 50 microseconds, before a thread goes to sleep */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t wanted, finished;
    int made;   /* 1: it is there. -1: there is none to be had */
    Work *next; /* to be taken up */
    Work *now;  /* being helped with */
} helper = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, NULL, NULL};

static void *help(void *unused) {
    pthread_mutex_lock(&helper.lock);
    for (;;) {
        while (!helper.next) pthread_cond_wait(&helper.wanted, &helper.lock);
        Work *work = helper.next;
        helper.next = NULL;
        __atomic_store_n(&helper.now, work, __ATOMIC_RELAXED);
        pthread_mutex_unlock(&helper.lock);
        look_through(work, 1);
        pthread_mutex_lock(&helper.lock);
        __atomic_store_n(&helper.now, NULL, __ATOMIC_RELEASE);
        pthread_cond_signal(&helper.finished);
    }
    return unused;
}

static void forget_helper(void) {
    const pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    const pthread_cond_t bell = PTHREAD_COND_INITIALIZER;
    helper.lock = lock;
    helper.wanted = helper.finished = bell;
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

/* Has the helper come as soon as it wakes up; whether it was free. */
static int hire(Work *work) {
    if (pthread_mutex_trylock(&helper.lock)) return 0;
    if (!helper.made) make_helper();
    const int free = helper.made > 0 && !helper.next && !helper.now;
    if (free) helper.next = work;
    pthread_mutex_unlock(&helper.lock);
    if (free) pthread_cond_signal(&helper.wanted);
    return free;
}

/* After it nobody touches the work but its owner. */
static void dismiss(Work *work) {
    for (int i = 0; i < PATIENCE && __atomic_load_n(&helper.now, __ATOMIC_ACQUIRE) == work; i++) {
#ifdef X86
        _mm_pause();
#endif
    }
    pthread_mutex_lock(&helper.lock);
    if (helper.next == work) helper.next = NULL;
    while (helper.now == work) pthread_cond_wait(&helper.finished, &helper.lock);
    pthread_mutex_unlock(&helper.lock);
}

#endif
