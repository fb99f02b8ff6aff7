package io.theflash.spark

import java.io.IOException
import java.nio.charset.StandardCharsets.UTF_8
import java.nio.file.Files
import java.util.concurrent.TimeUnit.MILLISECONDS

import com.fasterxml.jackson.core.JsonProcessingException

/** The private engine process of a store of this machine.
  *
  * Python finds or starts it and returns its address, so that all users of a store share one, in
  * any language. Executors do the same as the driver.
  */
private[spark] object Engine {
  private val Module = "pyspark_theflash.service.client.engine_process"
  private val StartMs = 60000L
  private val OutputChars = 2000

  /** Address of the process of `folder`, which is started if necessary. */
  def address(folder: Folder): String = {
    val output = Files.createTempFile("theflash", ".out").toFile
    val errors = Files.createTempFile("theflash", ".err").toFile
    try {
      val command = Seq(folder.python, "-m", Module, folder.path) ++
        folder.idle.toSeq.flatMap(Seq("--idle", _))
      val process = new ProcessBuilder(command: _*)
        .redirectInput(ProcessBuilder.Redirect.from(new java.io.File("/dev/null")))
        .redirectOutput(output)
        .redirectError(errors)
        .start()
      if (!process.waitFor(StartMs, MILLISECONDS)) {
        process.destroyForcibly()
        throw Errors.deadline(Module, StartMs)
      }
      val said = Connection.Mapper.readTree(output)
      if (said.has("error")) throw Errors.heard(said.get("error"))
      if (!said.has("address")) throw failed(folder, read(errors))
      said.get("address").asText()
    } catch {
      case error: JsonProcessingException => throw failed(folder, read(errors), error)
      case error: IOException             => throw failed(folder, error.getMessage, error)
      case error: InterruptedException    => throw failed(folder, "interrupted", error)
    } finally {
      val _ = (output.delete(), errors.delete())
    }
  }

  private def failed(folder: Folder, reason: String, cause: Throwable = null): TheFlashException =
    Errors.unavailable(
      folder.path,
      s"${folder.python} -m $Module: $reason (spark.theflash.python names another Python)",
      cause
    )

  private def read(file: java.io.File): String =
    new String(Files.readAllBytes(file.toPath), UTF_8)
      .takeRight(OutputChars)
      .split("\\s+")
      .mkString(" ")
}
