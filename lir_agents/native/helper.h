/* One thread that helps whoever has much to read: half of that time is spent waiting for memory, and a second core
   waits for memory of its own.

   It is made when it is first wanted, by a thread whose processors are its own from then on; where the system gives no
   thread, there is none to the end of the process. It sleeps until then, and helps one caller at a time; everybody else
   does without, nobody waits for it to be free. It does not survive a fork: the child's first call makes another. */

#ifndef LIR_HELPER_H
#define LIR_HELPER_H

/* The first member of what is to be done. `share` takes parts until none is left; it may run in both threads at once,
   and is told which of the two it is: 0 for whose work it is, 1 for the helper. */
typedef struct Work Work;
struct Work {
    void (*share)(Work *work, int helping);
};

/* Does the work, with help where `helped` and somebody is free. */
void work_through(Work *work, int helped);

#endif
