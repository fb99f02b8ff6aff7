package io.theflash.spark

import java.io.{File, IOException}
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

  /** Runs a module like `-m`, which would also import modules from the working directory. */
  private val Run = "import sys; sys.path[:] = filter(None, sys.path); " +
    "import runpy; runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
  private val StartMs = 60000L
  private val OutputChars = 2000

  /** Address of the process of `folder`, which is started if necessary.
    *
    * Python runs in `/` and searches no working directory for modules: a file in the JVM's, such as
    * `argparse.py`, could replace a standard module.
    */
  def address(folder: Folder): String = {
    val output = Files.createTempFile("theflash", ".out").toFile
    val errors = Files.createTempFile("theflash", ".err").toFile
    try {
      val python = if (folder.python.contains("/")) absolute(folder.python) else folder.python
      val command = Seq(python, "-c", Run, Module, folder.path) ++
        folder.idle.toSeq.flatMap(Seq("--idle", _))
      val builder = new ProcessBuilder(command: _*).directory(new File("/"))
      sys.env.get("PYTHONPATH").foreach { paths =>
        val absolutePaths = paths.split(File.pathSeparator).filter(_.nonEmpty).map(absolute)
        builder.environment().put("PYTHONPATH", absolutePaths.mkString(File.pathSeparator))
      }
      val process = builder
        .redirectInput(ProcessBuilder.Redirect.from(new File("/dev/null")))
        .redirectOutput(output)
        .redirectError(errors)
        .start()
      if (!process.waitFor(StartMs, MILLISECONDS)) {
        process.destroyForcibly()
        throw Errors.deadline(Module, StartMs)
      }
      val said = Connection.Mapper.readTree(output)
      if (said.has("error")) throw Errors.decoded(said.get("error"))
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

  private def absolute(path: String): String = new File(path).getAbsolutePath

  private def failed(folder: Folder, reason: String, cause: Throwable = null): TheFlashException =
    Errors.unavailable(
      folder.path,
      s"${folder.python} -m $Module: $reason (spark.theflash.python names another Python)",
      cause
    )

  private def read(file: File): String =
    new String(Files.readAllBytes(file.toPath), UTF_8)
      .takeRight(OutputChars)
      .split("\\s+")
      .mkString(" ")
}
