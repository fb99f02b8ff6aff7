package io.theflash.spark

import java.util.concurrent.{ScheduledFuture, ScheduledThreadPoolExecutor, TimeUnit}

/** A daemon thread for delayed and periodic tasks. */
private[spark] object Background {
  private lazy val executor = {
    val made = new ScheduledThreadPoolExecutor(
      1,
      (task: Runnable) => {
        val thread = new Thread(task, "theflash-background")
        thread.setDaemon(true)
        thread
      }
    )
    made.setRemoveOnCancelPolicy(true)
    made
  }

  def in(delayMs: Long)(task: Runnable): ScheduledFuture[_] =
    executor.schedule(task, delayMs, TimeUnit.MILLISECONDS)

  def every(periodMs: Long)(task: Runnable): ScheduledFuture[_] =
    executor.scheduleWithFixedDelay(task, periodMs, periodMs, TimeUnit.MILLISECONDS)
}
